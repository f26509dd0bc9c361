unit(workload_endpoint USES workload spiffe)
unit(workload_scan USES workload spiffe)
unit(workload_decode USES workload spiffe issuer EXT crypto)
fuzz(workload USES workload spiffe)

# The source against the development issuer, which it starts.
unit(workload USES workload source spiffe EXT event_core)
target_compile_definitions(unit_workload
	PRIVATE DEV_ISSUER="$<TARGET_FILE:postern-dev-issuer>")
add_dependencies(unit_workload postern-dev-issuer)
