/* Which model this is; src/model.c, which bnncc writes, says it. */
#ifndef IDENTITY_H
#define IDENTITY_H

#include <stdint.h>

extern const char model_name[];
extern const uint32_t model_fingerprint; /* CRC-32 of the generated header and source */

#endif
