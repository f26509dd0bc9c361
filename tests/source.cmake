unit(backoff USES source)
unit(keeper USES source spiffe issuer EXT crypto)
