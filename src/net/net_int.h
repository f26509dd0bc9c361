#ifndef POSTERN_NET_INT_H
#define POSTERN_NET_INT_H

/* What the files of net share. */

#include "net.h"

/* A non-blocking socket with the options of a dialled one; -1 and errno. */
int net_socket(int family, enum net_side side, uint32_t keepalive_s);
bool net_is_writable(int fd);

#endif
