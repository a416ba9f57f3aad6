/* A bare-metal program for `bnncc cycles`: a vector table, one function to look at, and an end by semihosting. */
#include <stdint.h>

extern uint32_t stack_top[]; /* machine.ld */

static const uint8_t text[] = "what is counted is counted exactly, and what is estimated says so";

uint32_t fletcher(const uint8_t *bytes, uint32_t count);

/* Fletcher's checksum. */
__attribute__((noipa)) uint32_t fletcher(const uint8_t *bytes, uint32_t count)
{
    uint32_t a = 0, b = 0;
    for (uint32_t i = 0; i < count; i++) {
        a += bytes[i];
        b += a;
    }
    return b << 16 | (a & 0xFFFFU);
}

/* SYS_EXIT of Arm's semihosting, with ADP_Stopped_ApplicationExit: the simulator ends with status 0. */
static void end(void)
{
    register uint32_t operation __asm__("r0") = 0x18, reason __asm__("r1") = 0x20026;
    __asm__ volatile("bkpt 0xab" ::"r"(operation), "r"(reason));
}

static void reset(void)
{
    for (uint32_t count = 16; count < sizeof text; count *= 2)
        (void)fletcher(text, count);
    end();
}

__attribute__((section(".vectors"), used)) static const struct {
    uint32_t *stack;
    void (*reset)(void);
} vectors = {stack_top, reset};
