unit(workload_endpoint USES workload spiffe)
unit(workload_scan USES workload spiffe)
unit(workload_decode USES workload spiffe issuer EXT crypto)
fuzz(workload USES workload spiffe)

# The source against the development issuer, which it starts.
unit(workload USES workload source spiffe EXT event_core)
target_compile_definitions(unit_workload
	PRIVATE DEV_ISSUER="$<TARGET_FILE:postern-dev-issuer>")
add_dependencies(unit_workload postern-dev-issuer)

unit(dev_issuer)
target_compile_definitions(unit_dev_issuer
	PRIVATE DEV_ISSUER="$<TARGET_FILE:postern-dev-issuer>"
	MANUAL="${CMAKE_SOURCE_DIR}/man/postern-dev-issuer.1")
add_dependencies(unit_dev_issuer postern-dev-issuer)
