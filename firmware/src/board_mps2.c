/* QEMU's mps2 machines as a board: the CMSDK UART 0 on interrupt line 0, a 25 MHz clock. */
#include "board.h"

#define UART_DATA REGISTER(0x40004000u)
#define UART_STATE REGISTER(0x40004004u)
#define UART_CTRL REGISTER(0x40004008u)
#define UART_INTCLEAR REGISTER(0x4000400Cu)
#define UART_BAUDDIV REGISTER(0x40004010u)
#define NVIC_ISER0 REGISTER(0xE000E100u)
#define NVIC_ICER0 REGISTER(0xE000E180u)
#define NVIC_ICPR0 REGISTER(0xE000E280u)

enum { STATE_TX_FULL = 1, STATE_RX_FULL = 2, CTRL_TX = 1, CTRL_RX = 2, CTRL_RX_INTERRUPT = 8, INT_RX = 2, LINE_RX = 1 };
enum { CLOCK_HZ = 25000000, BAUD = 115200 };

uint32_t board_init(void) {
    UART_BAUDDIV = CLOCK_HZ / BAUD;
    UART_CTRL = CTRL_TX | CTRL_RX | CTRL_RX_INTERRUPT;
    return CLOCK_HZ;
}

uint8_t board_receive(void) {
    /* Sleep, or a waiting board would keep one of the host's processors busy. With interrupts masked a pending one still
     * ends the sleep but is never taken, so there is no handler. */
    __asm__ volatile("cpsid i" ::: "memory");
    NVIC_ISER0 = LINE_RX;
    while (!(UART_STATE & STATE_RX_FULL)) {
        __asm__ volatile("wfi" ::: "memory");
        UART_INTCLEAR = INT_RX;
        NVIC_ICPR0 = LINE_RX;
    }
    const uint8_t byte = (uint8_t)UART_DATA;
    UART_INTCLEAR = INT_RX;
    NVIC_ICER0 = LINE_RX;
    NVIC_ICPR0 = LINE_RX;
    __asm__ volatile("cpsie i" ::: "memory");
    return byte;
}

void board_send(uint8_t byte) {
    while (UART_STATE & STATE_TX_FULL) {
    }
    UART_DATA = byte;
}
