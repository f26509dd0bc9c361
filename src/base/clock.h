#ifndef POSTERN_CLOCK_H
#define POSTERN_CLOCK_H

/*
 * The clocks, and the only place that reads them: REALTIME for validity,
 * BOOTTIME for lifetimes (it goes on during suspend). Tests replace this file
 * by one of their own at link time. Any thread.
 */

#include <stdint.h>

/* Seconds since 1970, UTC: validity of certificates. */
int64_t clock_wall_s(void);
/* The same, at most 4 ms old: for every turn of a worker. */
int64_t clock_wall_coarse_s(void);
/* Milliseconds since 1970, UTC: log lines. */
int64_t clock_wall_ms(void);
/* Milliseconds since boot, suspend included: timeouts, grace, back-off. */
int64_t clock_boot_ms(void);
/* CLOCK_MONOTONIC in microseconds: what systemd compares reloads by. */
int64_t clock_monotonic_us(void);
/* Nanoseconds since boot: durations in histograms. */
int64_t clock_boot_ns(void);

#endif
