#include "profile.h"

#include "board.h"
#include "model.h"
#include "protocol.h"
#include "startup.h"

static uint32_t steps[MODEL_CONST(STEP_COUNT)];
static uint64_t total;
static uint32_t current;
static uint32_t since;
static uint8_t counter;

#if defined(__ARM_ARCH_6M__)
/* Cortex-M0 and M0+ have no cycle counter: SysTick counts 24 bits down, and its interrupt counts the turns. */
#define SYST_CSR REGISTER(0xE000E010u)
#define SYST_RVR REGISTER(0xE000E014u)
#define SYST_CVR REGISTER(0xE000E018u)

static volatile uint32_t turns;

void SysTick_Handler(void) {
    turns++;
}

static uint8_t counter_start(void) {
    SYST_RVR = 0xFFFFFFu;
    SYST_CVR = 0u;
    SYST_CSR = 7u; /* processor clock, interrupt, enable */
    return COUNTER_SYSTICK;
}

static uint32_t now(void) {
    uint32_t before;
    uint32_t value;
    do {
        before = turns;
        value = SYST_CVR;
    } while (before != turns);
    return (before << 24) + (0xFFFFFFu - value);
}
#else
#define DEMCR REGISTER(0xE000EDFCu)
#define DWT_CTRL REGISTER(0xE0001000u)
#define DWT_CYCCNT REGISTER(0xE0001004u)
#define DWT_LAR REGISTER(0xE0001FB0u)

static uint32_t now(void) {
    return DWT_CYCCNT;
}

static uint8_t counter_start(void) {
    DEMCR |= 1u << 24;     /* TRCENA */
    DWT_LAR = 0xC5ACCE55u; /* the M7 has a lock on it; elsewhere this does nothing */
    DWT_CYCCNT = 0u;
    DWT_CTRL |= 1u;
    /* In a simulator the register is there but stands still, and not every part implements it. */
    const uint32_t before = now();
    __asm__ volatile("nop\n nop\n nop\n nop" ::: "memory");
    return now() != before ? COUNTER_DWT : COUNTER_NONE;
}
#endif

uint8_t profile_init(void) {
    counter = counter_start();
    return counter;
}

void profile_begin(void) {
    for (uint32_t i = 0; i < MODEL_CONST(STEP_COUNT); i++) {
        steps[i] = 0;
    }
    total = 0;
    current = MODEL_CONST(STEP_COUNT);
    if (counter != COUNTER_NONE) {
        since = now();
    }
}

void profile_step(uint32_t step) {
    if (counter == COUNTER_NONE) {
        return;
    }
    const uint32_t elapsed = now() - since;
    total += elapsed;
    if (current < MODEL_CONST(STEP_COUNT)) {
        steps[current] += elapsed;
    }
    current = step;
    since = now(); /* again, so that these lines are in nobody's account */
}

uint64_t profile_total(void) {
    return total;
}

const uint32_t *profile_steps(void) {
    return steps;
}
