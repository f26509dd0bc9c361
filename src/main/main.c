/*
 * postern: the daemon and its command line, one binary.
 */

#include <stddef.h>

#include "cli.h"
#include "control.h"
#include "spiffe.h"
#include "worker.h"

static int
run(const char *const *files, size_t n_files, const char *control,
    const char *user)
{
	const struct control_args args = {
	    .files = files,
	    .n_files = n_files,
	    .control_path = control,
	    .user = user,
	};

	return control_run(&args);
}

int
main(int argc, char **argv)
{
	char libevent[64];
	const char *const libraries[] = {
	    spiffe_library_version(), libevent, NULL};
	const struct cli_env env = {
	    .out = stdout,
	    .err = stderr,
	    .ask = control_ask,
	    .run = run,
	    .libraries = libraries,
	};

	(void)snprintf(libevent, sizeof(libevent), "libevent %s",
	    worker_library_version());
	return cli_main(argc, argv, &env);
}
