set(control_uses control worker conn relay transport source workload tls caller
	net explain conf policy spiffe stream sys)
unit(log_sink USES ${control_uses} EXT event_core)
unit(listeners USES ${control_uses} EXT event_core)
