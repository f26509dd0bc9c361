unit(reader USES conf policy spiffe)
unit(conf USES conf policy spiffe)
unit(conf_dump USES conf policy spiffe)
unit(suggest USES conf policy spiffe)
unit(endpoint USES conf policy spiffe)
fuzz(conf USES conf policy spiffe)

# Generated pages, and the check that they are fresh.
add_executable(conf_gen style/conf_gen.c)
target_link_libraries(conf_gen PRIVATE conf policy spiffe base)
add_executable(docs_gen style/docs_gen.c)
target_include_directories(docs_gen PRIVATE ${CMAKE_SOURCE_DIR}/src/control)
target_link_libraries(docs_gen PRIVATE cli conf policy spiffe base)
set(docs_match ${CMAKE_CURRENT_SOURCE_DIR}/style/docs-match-tables.sh
	$<TARGET_FILE:conf_gen> $<TARGET_FILE:docs_gen> ${CMAKE_SOURCE_DIR})
add_test(NAME style_docs_match_tables COMMAND ${docs_match})
add_custom_target(docs-write COMMAND ${docs_match} write VERBATIM)

# Configurations in documents are ones that postern takes.
find_package(Python3 REQUIRED COMPONENTS Interpreter)
add_test(NAME style_snippets
	COMMAND ${Python3_EXECUTABLE}
		${CMAKE_CURRENT_SOURCE_DIR}/style/snippets.py
		$<TARGET_FILE:postern> ${CMAKE_SOURCE_DIR})

# The unit keeps its score, and the installation its list.
add_test(NAME style_unit_score
	COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/style/unit-score.sh ${CMAKE_SOURCE_DIR})
set_tests_properties(style_unit_score PROPERTIES SKIP_RETURN_CODE 77)
add_test(NAME style_install
	COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/style/install.sh
		${CMAKE_BINARY_DIR} ${CMAKE_SOURCE_DIR})
