unit(workload_endpoint USES workload spiffe)
unit(workload_scan USES workload spiffe)
unit(workload_decode USES workload spiffe issuer EXT crypto)
fuzz(workload USES workload spiffe)
