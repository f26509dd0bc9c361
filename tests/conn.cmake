sim(conn USES conn relay transport net caller policy spiffe stream conf tls
	issuer EXT crypto event_core)
