/* Bare-metal start-up for the simulator, Cortex-M0 to M33: vectors, FPU, memory, main, and a report of faults.
 * Built with -DTRAP_UNALIGNED it makes an ARMv7-M core fault on unaligned access, as ARMv6-M cores do. */
#include <stdint.h>

#include "semihost.h"

extern uint32_t data_begin[], data_end[], bss_begin[], bss_end[], stack_top[]; /* link.ld */
extern const uint32_t data_load[];

int main(void);
void start(void);
void fault(void);

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define CCR REGISTER(0xE000ED14)
#define CPACR REGISTER(0xE000ED88)

void start(void)
{
#ifdef TRAP_UNALIGNED
    CCR |= 1U << 3; /* UNALIGN_TRP */
#endif
#ifdef __ARM_FP
    CPACR |= 0xFU << 20; /* full access to CP10 and CP11 */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
    const uint32_t *from = data_load;
    for (uint32_t *to = data_begin; to != data_end; to++)
        *to = *from++;
    for (uint32_t *to = bss_begin; to != bss_end; to++)
        *to = 0;
    semihost_exit(main());
}

static void put_hex(uint32_t value)
{
    char text[9];
    for (int i = 7; i >= 0; i--, value >>= 4)
        text[i] = "0123456789abcdef"[value & 15U];
    text[8] = '\0';
    semihost_puts(text);
}

/* `frame` is what the core stacked: r0-r3, r12, lr, pc, xPSR. */
__attribute__((used)) static void report_fault(const uint32_t *frame, uint32_t exception)
{
    semihost_puts("fault: exception 0x");
    put_hex(exception);
    semihost_puts(" at pc 0x");
    put_hex(frame[6]);
    semihost_puts("\n");
    semihost_exit(3);
}

/* Starts again at the stack's top: the fault may have been the stack's overflow. */
__attribute__((naked)) void fault(void)
{
    __asm__ volatile(
        "mov r0, sp\n\t"
        "mrs r1, ipsr\n\t"
        "ldr r2, =stack_top\n\t"
        "mov sp, r2\n\t"
        "bl report_fault\n\t");
}

typedef void (*vector)(void);

__attribute__((section(".vectors"), used)) static const struct {
    uint32_t *stack;
    vector start;
    vector faults[14];
} vectors = {
    stack_top,
    start,
    {fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault, fault},
};
