#ifndef POSTERN_UNIT_H
#define POSTERN_UNIT_H

/* cmocka, as every test includes it. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* Our fail() is a function (err.h); tests say why they fail. */
#undef fail
#undef fail_msg
#define fail_msg(...)                                                          \
	do {                                                                   \
		print_error(__VA_ARGS__);                                      \
		print_error("\n");                                             \
		_fail(__FILE__, __LINE__);                                     \
	} while (0)

#endif
