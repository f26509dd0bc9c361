unit(net USES net EXT event_core)
