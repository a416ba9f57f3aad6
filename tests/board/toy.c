#include "toy.h"

#ifndef TOY_STEP
#define TOY_STEP(step) ((void)0)
#endif

static const int8_t toy_weights[4][8] = {
    {1, -1, 1, 1, -1, -1, 1, 1}, {-1, 1, 1, -1, 1, -1, -1, 1}, {1, 1, -1, -1, 1, 1, -1, 1}, {-1, -1, -1, 1, 1, 1, 1, 1},
};

static int32_t toy_argmax(const float *logits) {
    int32_t best = 0;
    for (int32_t i = 1; i < 4; i++) {
        if (logits[i] > logits[best]) {
            best = i;
        }
    }
    return best;
}

void toy_init(toy_context *ctx) {
    ctx->exit_threshold = 0.5f;
}

void toy_run(toy_context *restrict ctx, const toy_input *restrict input, toy_result *restrict result) {
    TOY_STEP(0);
#if defined(__arm__)
    if (input[7] == 255u) {
        __builtin_trap();
    }
#endif
    for (int32_t i = 0; i < 4; i++) {
        ctx->arena.sums[i] = 0;
        for (int32_t j = 0; j < 8; j++) {
            ctx->arena.sums[i] += toy_weights[i][j] * (int32_t)input[j];
        }
    }
    TOY_STEP(1);
    for (int32_t i = 0; i < 4; i++) {
        result->exit1[i] = (float)ctx->arena.sums[i] * 0.125f;
    }
    result->entropy = (float)input[0] / 255.0f;
    result->exit_index = 0;
    result->class_index = toy_argmax(result->exit1);
    if (result->entropy < ctx->exit_threshold) {
        TOY_STEP(TOY_STEP_COUNT);
        return;
    }
    TOY_STEP(2);
    for (int32_t i = 0; i < 4; i++) {
        result->exit2[i] = (float)(ctx->arena.sums[3 - i] * 3);
    }
    result->exit_index = 1;
    result->class_index = toy_argmax(result->exit2);
    TOY_STEP(TOY_STEP_COUNT);
}
