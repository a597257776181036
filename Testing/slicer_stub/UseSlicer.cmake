include(CTest)

macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(STUB "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(STUB_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "Unknown keywords: ${STUB_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT STUB_NAME OR NOT STUB_SCRIPTS)
    message(FATAL_ERROR "NAME and SCRIPTS are mandatory")
  endif()
  set(stub_copies)
  foreach(stub_file IN LISTS STUB_SCRIPTS STUB_RESOURCES)
    set(stub_source "${CMAKE_CURRENT_SOURCE_DIR}/${stub_file}")
    set(stub_target "${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}/${stub_file}")
    if(IS_ABSOLUTE "${stub_file}" OR stub_file MATCHES "[.][.]")
      message(FATAL_ERROR "Slicer would misplace ${stub_file}: paths must be relative and inside this folder")
    endif()
    if(NOT EXISTS "${stub_source}")
      message(FATAL_ERROR "Nonexistent file ${stub_file}")
    endif()
    add_custom_command(
      OUTPUT "${stub_target}"
      COMMAND "${CMAKE_COMMAND}" -E copy "${stub_source}" "${stub_target}"
      DEPENDS "${stub_source}"
      )
    list(APPEND stub_copies "${stub_target}")
  endforeach()
  add_custom_target("Copy${STUB_NAME}" ALL DEPENDS ${stub_copies})
  install(
    DIRECTORY "${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}/"
    DESTINATION "${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR}"
    )
endmacro()

macro(slicer_add_python_unittest)
  cmake_parse_arguments(STUB "" "SCRIPT;TESTNAME_PREFIX" "SLICER_ARGS" ${ARGN})
  if(NOT EXISTS "${STUB_SCRIPT}")
    message(FATAL_ERROR "Nonexistent test script ${STUB_SCRIPT}")
  endif()
  get_filename_component(stub_name "${STUB_SCRIPT}" NAME_WE)
  add_test(NAME "py_${stub_name}" COMMAND "${CMAKE_COMMAND}" -E echo "${STUB_SCRIPT}")
endmacro()
