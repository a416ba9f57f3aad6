/* ST NUCLEO-F446RE: 180 MHz from the internal oscillator, USART2 (PA2, PA3) on the ST-Link's virtual serial port.
 *
 * Register names and sequences follow ST's reference manual RM0390. The serial port runs in the tests on QEMU's model of the
 * sibling STM32F405; the clock set-up could not be tried on silicon here. Every wait is bounded: if a clock does not come
 * up, the board stays at the 16 MHz it started with and says so in its HELLO.
 */
#include "board.h"

#include <stdbool.h>

#define RCC_CR REGISTER(0x40023800u)
#define RCC_PLLCFGR REGISTER(0x40023804u)
#define RCC_CFGR REGISTER(0x40023808u)
#define RCC_AHB1ENR REGISTER(0x40023830u)
#define RCC_APB1ENR REGISTER(0x40023840u)
#define PWR_CR REGISTER(0x40007000u)
#define PWR_CSR REGISTER(0x40007004u)
#define FLASH_ACR REGISTER(0x40023C00u)
#define GPIOA_MODER REGISTER(0x40020000u)
#define GPIOA_AFRL REGISTER(0x40020020u)
#define USART2_SR REGISTER(0x40004400u)
#define USART2_DR REGISTER(0x40004404u)
#define USART2_BRR REGISTER(0x40004408u)
#define USART2_CR1 REGISTER(0x4000440Cu)

#define BIT(n) (1u << (n))

enum { HSI_HZ = 16000000, PLL_HZ = 180000000, BAUD = 115200 };

/* Waits until the bits `mask` of a register read `value`; false if they do not within some tens of milliseconds. */
static bool wait_for(const volatile uint32_t *address, uint32_t mask, uint32_t value) {
    for (uint32_t tries = 0; tries < 100000u; tries++) {
        if ((*address & mask) == value) {
            return true;
        }
    }
    return false;
}

/* 16 MHz / 8 * 180 / 2 = 180 MHz, which needs the over-drive mode and 5 wait states. APB1 runs at a quarter, APB2 at half. */
static bool start_pll(void) {
    RCC_APB1ENR |= BIT(28);                          /* PWREN */
    (void)RCC_APB1ENR;                               /* a peripheral's clock takes two cycles to start */
    PWR_CR |= 3u << 14;                              /* VOS: scale 1 */
    RCC_PLLCFGR = 8u | 180u << 6 | 8u << 24 | 2u << 28; /* M, N, P = 2, source HSI, Q, R */
    RCC_CR |= BIT(24);                               /* PLLON */
    PWR_CR |= BIT(16);                               /* ODEN */
    if (!wait_for(&PWR_CSR, BIT(16), BIT(16))) {     /* ODRDY */
        return false;
    }
    PWR_CR |= BIT(17);                               /* ODSWEN */
    if (!wait_for(&PWR_CSR, BIT(17), BIT(17)) ||     /* ODSWRDY */
        !wait_for(&RCC_CR, BIT(25), BIT(25))) {      /* PLLRDY */
        return false;
    }
    FLASH_ACR = 5u | BIT(8) | BIT(9) | BIT(10);      /* wait states, prefetch, instruction cache, data cache */
    if (!wait_for(&FLASH_ACR, 15u, 5u)) {
        return false;
    }
    RCC_CFGR = 5u << 10 | 4u << 13;                  /* PPRE1 = 4, PPRE2 = 2 before the switch */
    RCC_CFGR |= 2u;                                  /* SW: PLL */
    return wait_for(&RCC_CFGR, 3u << 2, 2u << 2);    /* SWS */
}

uint32_t board_init(void) {
    const bool fast = start_pll();
    if (!fast) {
        RCC_CFGR = 0u; /* back to HSI, all buses undivided */
    }
    const uint32_t bus_hz = fast ? (uint32_t)PLL_HZ / 4u : (uint32_t)HSI_HZ;

    RCC_AHB1ENR |= BIT(0);  /* GPIOA */
    RCC_APB1ENR |= BIT(17); /* USART2 */
    (void)RCC_APB1ENR;
    GPIOA_AFRL = (GPIOA_AFRL & ~0xFF00u) | 0x7700u;      /* PA2, PA3: alternate function 7 */
    GPIOA_MODER = (GPIOA_MODER & ~0xF0u) | 0xA0u;
    USART2_BRR = (bus_hz + (uint32_t)BAUD / 2u) / (uint32_t)BAUD;
    USART2_CR1 = BIT(13) | BIT(3) | BIT(2); /* UE, TE, RE */
    return fast ? (uint32_t)PLL_HZ : (uint32_t)HSI_HZ;
}

uint8_t board_receive(void) {
    /* No sleep here: a debug probe cannot always attach to a sleeping STM32. Reading SR, then DR also clears an overrun. */
    while (!(USART2_SR & BIT(5))) { /* RXNE */
    }
    return (uint8_t)USART2_DR;
}

void board_send(uint8_t byte) {
    while (!(USART2_SR & BIT(7))) { /* TXE */
    }
    USART2_DR = byte;
}
