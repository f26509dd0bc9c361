unit(worker USES worker conn relay transport net caller policy spiffe stream
	conf tls EXT crypto event_core)
unit(worker_thread USES worker conn relay transport tls net caller policy
	spiffe stream conf issuer EXT event_core crypto)
