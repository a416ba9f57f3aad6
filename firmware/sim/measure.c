/* Runs the model on each input of inputs.bin and writes each result to results.bin, as raw bytes; at the end stack.bin
 * gets the deepest stack of a run in bytes (uint32_t). The counting plugin sees where a run ends by the mark. */
#include <stdint.h>
#include <string.h>

#include "mark.h"
#include "model.h"
#include "port.h"

#define PAINT 0xA5A5A5A5U

extern uint32_t stack_bottom[]; /* link.ld */

static MODEL(context) context;
static MODEL(input) input[MODEL_CONST(INPUT_COUNT)];
static MODEL(result) result;

/* Inline: it overwrites all of the stack that its caller does not use. */
static inline __attribute__((always_inline)) void paint_stack(volatile uint32_t *top)
{
    for (volatile uint32_t *word = stack_bottom; word != top; word++)
        *word = PAINT;
}

static uint32_t stack_depth(const volatile uint32_t *top)
{
    const volatile uint32_t *word = stack_bottom;
    while (word != top && *word == PAINT)
        word++;
    return (uint32_t)((uintptr_t)top - (uintptr_t)word);
}

int main(void)
{
    uint32_t deepest = 0;
    const port_file inputs = port_open("inputs.bin", PORT_READ);
    const port_file results = port_open("results.bin", PORT_WRITE);
    MODEL(init)(&context);
#ifdef EXIT_THRESHOLD_BITS /* of the float32 */
    const uint32_t threshold = EXIT_THRESHOLD_BITS;
    memcpy(&context.exit_threshold, &threshold, sizeof threshold);
#endif
    while (port_read(inputs, input, sizeof input) == sizeof input) {
        volatile uint32_t *top;
        __asm__ volatile("mov %0, sp" : "=r"(top));
        paint_stack(top);
        MODEL(run)(&context, input, &result);
        BNNCC_MARK(BNNCC_MARK_IDLE);
        const uint32_t depth = stack_depth(top);
        if (depth > deepest)
            deepest = depth;
        port_write(results, &result, sizeof result);
    }
    port_close(inputs);
    port_close(results);
    const port_file stack = port_open("stack.bin", PORT_WRITE);
    port_write(stack, &deepest, sizeof deepest);
    port_close(stack);
    return 0;
}
