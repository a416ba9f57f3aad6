#include "toy.h"

#include <math.h>

#ifndef TOY_STEP
#define TOY_STEP(step) ((void)0)
#endif

void toy_init(toy_context *ctx)
{
    ctx->exit_threshold = 1.0f;
}

/* Step 0: the sum of the inputs and, as "entropy", its logarithm. */
static __attribute__((noinline)) int32_t add(const toy_input *input)
{
    int32_t sum = 0;
    for (int i = 0; i < TOY_INPUT_COUNT; i++)
        sum += input[i];
    return sum;
}

/* Step 1: as many rounds as the sum says. Assembly, so that a test can count: 3 a round, and 2 for bx and the first. */
extern uint32_t toy_rounds(uint32_t count);
__asm__(
    ".text\n"
    ".syntax unified\n"
    ".thumb_func\n"
    ".global toy_rounds\n"
    ".type toy_rounds, %function\n"
    "toy_rounds:\n"
    "    movs r1, #0\n"
    "1:  adds r1, r1, #2\n"
    "    subs r0, r0, #1\n"
    "    bne 1b\n"
    "    mov r0, r1\n"
    "    bx lr\n"
    ".size toy_rounds, . - toy_rounds\n");

void toy_run(toy_context *restrict ctx, const toy_input *restrict input, toy_result *restrict result)
{
    TOY_STEP(0);
    result->sum = add(input);
    result->entropy = logf((float)result->sum);
    result->class_index = input[0];
    result->exit_index = 0;
    if (result->entropy < ctx->exit_threshold) {
        TOY_STEP(3);
        return;
    }
    TOY_STEP(1);
    ctx->arena[0] = toy_rounds((uint32_t)result->sum);
    TOY_STEP(2);
    result->sum = (int32_t)ctx->arena[0];
    result->exit_index = 1;
    TOY_STEP(3);
}
