/* Bare-metal start-up for the simulator, Cortex-M0 to M33: vectors, FPU, memory, main, and a report of faults.
 * Built with -DTRAP_UNALIGNED it makes an ARMv7-M core fault on unaligned access, as ARMv6-M cores do. */
#include <stdint.h>

#include "semihost.h"

extern uint32_t data_begin[], data_end[], bss_begin[], bss_end[], stack_bottom[], stack_top[]; /* link.ld */
extern const uint32_t data_load[];

int main(void);
void start(void);
void fault(void);

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define CCR REGISTER(0xE000ED14)
#define CPACR REGISTER(0xE000ED88)
#define MPU_TYPE REGISTER(0xE000ED90)
#define MPU_CTRL REGISTER(0xE000ED94)
#define MPU_RBAR REGISTER(0xE000ED9C)
#define MPU_RASR REGISTER(0xE000EDA0)

/* The stack lies at the bottom of RAM. On QEMU's ARMv7-M machines what lies below swallows writes instead of faulting,
 * so the MPU forbids the 256 MiB below; their RAM begins at 0x20000000. */
static void guard_stack(void)
{
#if __ARM_ARCH < 8
    if (MPU_TYPE != 0) {
        MPU_RBAR = 0x10000000;
        MPU_RASR = 27U << 1 | 1U; /* 2 to the 28 bytes, no access, enabled */
        MPU_CTRL = 1U << 2 | 1U;  /* the default map elsewhere, enabled */
    }
#endif
}

void start(void)
{
#ifdef TRAP_UNALIGNED
    CCR |= 1U << 3; /* UNALIGN_TRP */
#endif
    guard_stack();
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
    if (frame < stack_bottom) {
        semihost_puts("fault: the stack overflowed\n");
        semihost_exit(3);
    }
    semihost_puts("fault: exception 0x");
    put_hex(exception);
    semihost_puts(" at pc 0x");
    put_hex(frame[6]);
    semihost_puts("\n");
    semihost_exit(3);
}

/* After an overflow the report itself needs a stack: it starts again at the top. */
__attribute__((naked)) void fault(void)
{
    __asm__ volatile(
        "mov r0, sp\n\t"
        "mrs r1, ipsr\n\t"
        "ldr r2, =stack_bottom\n\t"
        "cmp r0, r2\n\t"
        "bhs 1f\n\t"
        "ldr r2, =stack_top\n\t"
        "mov sp, r2\n\t"
        "1: bl report_fault\n\t");
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
