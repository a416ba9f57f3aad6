/* From reset to main on any Cortex-M: vectors, FPU, .data and .bss. link.ld places them. */
#include <stdint.h>

#include "board.h"
#include "startup.h"

extern uint32_t link_data_source[], link_data_start[], link_data_end[], link_bss_start[], link_bss_end[], link_stack_top[];

int main(void);
void Reset_Handler(void);

/* Interrupts that nobody enables never come; if one does, it is a fault. */
__attribute__((weak)) void SysTick_Handler(void) {
    HardFault_Handler();
}

typedef union {
    void (*handler)(void);
    uint32_t *stack;
} vector;

__attribute__((section(".vectors"), used)) static const vector vectors[16] = {
    [0] = {.stack = link_stack_top},       [1] = {.handler = Reset_Handler},
    [2] = {.handler = HardFault_Handler},  [3] = {.handler = HardFault_Handler},
    [4] = {.handler = HardFault_Handler},  [5] = {.handler = HardFault_Handler},
    [6] = {.handler = HardFault_Handler},  [11] = {.handler = HardFault_Handler},
    [12] = {.handler = HardFault_Handler}, [14] = {.handler = HardFault_Handler},
    [15] = {.handler = SysTick_Handler},
};

void Reset_Handler(void) {
#if defined(__ARM_FP)
    REGISTER(0xE000ED88u) |= 0xFu << 20; /* CPACR: full access to CP10 and CP11, the FPU */
    __asm__ volatile("dsb\n isb" ::: "memory");
#endif
    for (uint32_t *from = link_data_source, *to = link_data_start; to < link_data_end; from++, to++) {
        *to = *from;
    }
    for (uint32_t *to = link_bss_start; to < link_bss_end; to++) {
        *to = 0;
    }
    (void)main();
    HardFault_Handler();
}
