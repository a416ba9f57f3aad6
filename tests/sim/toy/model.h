#include "toy.h"
#define MODEL(name) toy_##name
#define MODEL_CONST(name) TOY_##name
#define MODEL_SOURCE "toy.c"
