unit(worker USES worker conn relay transport net caller policy spiffe stream
	conf tls EXT crypto event_core)
