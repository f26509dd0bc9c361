unit(ca USES issuer EXT crypto)
