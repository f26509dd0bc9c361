#include "clock.h"

#include <time.h>

static int64_t
read_ns(clockid_t id)
{
	struct timespec ts;

	(void)clock_gettime(id, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int64_t
clock_wall_s(void)
{
	return read_ns(CLOCK_REALTIME) / 1000000000;
}

int64_t
clock_wall_coarse_s(void)
{
	return read_ns(CLOCK_REALTIME_COARSE) / 1000000000;
}

int64_t
clock_wall_ms(void)
{
	return read_ns(CLOCK_REALTIME) / 1000000;
}

int64_t
clock_boot_ms(void)
{
	return read_ns(CLOCK_BOOTTIME) / 1000000;
}

int64_t
clock_boot_ns(void)
{
	return read_ns(CLOCK_BOOTTIME);
}

int64_t
clock_monotonic_us(void)
{
	return read_ns(CLOCK_MONOTONIC) / 1000;
}
