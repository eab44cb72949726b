# Writes OUT, a header that names the commit of SOURCE, if it differs from what is there: a failing run names it.
execute_process(COMMAND git -C ${SOURCE} describe --always --dirty --abbrev=12 OUTPUT_VARIABLE commit
  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
file(CONFIGURE OUTPUT ${OUT} CONTENT "#define S2D_COMMIT \"@commit@\"\n" @ONLY)
