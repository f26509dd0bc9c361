unit(transport_tls USES transport tls stream spiffe issuer EXT ssl crypto)
