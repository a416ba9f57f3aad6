/* A hand-written model in the form of the generated ones: three steps, an early exit, a loop that depends on the data. */
#ifndef TOY_H
#define TOY_H

#include <stdint.h>

#define TOY_INPUT_COUNT 4
#define TOY_STEP_COUNT 3
#define TOY_EXIT_COUNT 2

typedef uint8_t toy_input;

typedef struct {
    float exit_threshold;
    uint32_t arena[16];
} toy_context;

typedef struct {
    int32_t class_index;
    int32_t exit_index;
    float entropy;
    int32_t sum;
} toy_result;

void toy_init(toy_context *ctx);
void toy_run(toy_context *restrict ctx, const toy_input *restrict input, toy_result *restrict result);

#endif
