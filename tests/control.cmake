set(control_uses control worker conn relay transport source workload tls caller
	net explain conf policy spiffe stream sys)
unit(log_sink USES ${control_uses} EXT event_core)
unit(listeners USES ${control_uses} EXT event_core)
unit(admin USES ${control_uses} EXT event_core)
target_link_options(unit_admin
	PRIVATE -Wl,--wrap=control_now_ms,--wrap=verb_dump)
unit(metrics USES ${control_uses} issuer EXT event_core crypto)
fuzz(admin_reply USES ${control_uses} EXT event_core)
