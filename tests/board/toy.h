/* A hand-written stand-in for a generated model, with two exits and three steps. */
#ifndef TOY_H
#define TOY_H

#include <stdint.h>

#define TOY_INPUT_COUNT 8
#define TOY_STEP_COUNT 3
#define TOY_EXIT_COUNT 2

typedef uint8_t toy_input;

typedef struct {
    float exit_threshold;
    union {
        int32_t sums[4];
        uint8_t bytes[16];
    } arena;
} toy_context;

typedef struct {
    int32_t class_index;
    int32_t exit_index;
    float entropy;
    float exit1[4];
    float exit2[4];
} toy_result;

void toy_init(toy_context *ctx);
void toy_run(toy_context *restrict ctx, const toy_input *restrict input, toy_result *restrict result);

#endif
