/* What the runner needs of a board. One file a board implements it (board_*.c); platformio.ini picks the file. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(address))

/* Clock, then serial port at 115200 baud, 8N1. Returns the clock in Hz that the processor really runs at. */
uint32_t board_init(void);

/* One byte from and to the host; both wait as long as it takes. */
uint8_t board_receive(void);
void board_send(uint8_t byte);

#endif
