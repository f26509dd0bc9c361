#ifndef POSTERN_KEY_MEMORY_INT_H
#define POSTERN_KEY_MEMORY_INT_H

#include <stdbool.h>

/*
 * From now on this thread's OpenSSL wipes what it frees, until switched off.
 * Without key_memory_init() it changes nothing.
 */
void key_memory_wipe_freed(bool on);

#endif
