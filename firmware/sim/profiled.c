/* The generated model with a mark at each step: compiled with -DNAME_STEP=BNNCC_MARK. */
#include "mark.h"
#include "model.h"
#include MODEL_SOURCE
