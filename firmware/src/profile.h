/* Cycles of a run and of each of its steps. */
#ifndef PROFILE_H
#define PROFILE_H

#include <stdint.h>

/* Starts the processor's cycle counter and tells which it is: COUNTER_... in protocol.h. */
uint8_t profile_init(void);

/* A run begins. */
void profile_begin(void);

/* The hook of the generated code: `step` begins, or the run ends if `step` is the number of steps. */
void profile_step(uint32_t step);

/* Cycles since profile_begin, without the hooks' own time; and of each step. 0 where nothing counts. */
uint64_t profile_total(void);
const uint32_t *profile_steps(void);

#endif
