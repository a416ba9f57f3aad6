/* Handlers that the start-up's vector table refers to. */
#ifndef STARTUP_H
#define STARTUP_H

void HardFault_Handler(void);
void SysTick_Handler(void);

#endif
