/* unit.h - cmocka and what it needs, in the order it needs it. */
#ifndef SUPPORT_UNIT_H
#define SUPPORT_UNIT_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#endif
