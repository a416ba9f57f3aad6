/* The time spent waiting for flash, as the counting plugin simulates it. docs/cycles.md describes the model.
 *
 *   flash=ORIGIN:BYTES   where flash lies, hexadecimal
 *   wait=N               wait states: what reading a line takes beyond one cycle; with 0 nothing is simulated
 *   line=BYTES           flash is read in lines, aligned
 *   prefetch=1           the line behind the one that is executed is read ahead
 *   instruction_lines=N  lines that a cache keeps of those that had to be waited for, by what was used last
 *   data_lines=N         the same for constants */
#ifndef BNNCC_FLASH_H
#define BNNCC_FLASH_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct cache {
    uint32_t size;
    struct cached {
        uint32_t line;
        uint64_t used; /* when last; 0: never */
    } *lines;
};

static uint32_t flash_origin, flash_bytes, wait_states, line_bytes, prefetch;
static struct cache instructions, constants;
static uint64_t now = 1;                /* in cycles: one for each instruction, each access and each wait */
static uint64_t waited;                 /* cycles, until someone resets it */
static uint32_t held_line = UINT32_MAX; /* the instructions of this line are at hand */
static uint64_t held_since;             /* from then on the next line is read ahead */

static bool flash_option(const char *option)
{
    return sscanf(option, "flash=%" SCNx32 ":%" SCNx32, &flash_origin, &flash_bytes) == 2 ||
           sscanf(option, "wait=%" SCNu32, &wait_states) == 1 || sscanf(option, "line=%" SCNu32, &line_bytes) == 1 ||
           sscanf(option, "prefetch=%" SCNu32, &prefetch) == 1 ||
           sscanf(option, "instruction_lines=%" SCNu32, &instructions.size) == 1 ||
           sscanf(option, "data_lines=%" SCNu32, &constants.size) == 1;
}

/* After the options; false if they make no flash. */
static bool flash_begin(void)
{
    instructions.lines = calloc(instructions.size + 1, sizeof *instructions.lines);
    constants.lines = calloc(constants.size + 1, sizeof *constants.lines);
    return instructions.lines != NULL && constants.lines != NULL && (wait_states == 0 || line_bytes != 0);
}

static bool in_flash(uint32_t address)
{
    return address - flash_origin < flash_bytes;
}

static bool is_cached(struct cache *cache, uint32_t line)
{
    for (uint32_t i = 0; i < cache->size; i++)
        if (cache->lines[i].line == line && cache->lines[i].used != 0) {
            cache->lines[i].used = now;
            return true;
        }
    return false;
}

static void wait_for(uint32_t line, uint64_t cycles, struct cache *cache)
{
    waited += cycles;
    now += cycles;
    if (cycles == 0 || cache->size == 0)
        return;
    struct cached *oldest = cache->lines;
    for (uint32_t i = 1; i < cache->size; i++)
        if (cache->lines[i].used < oldest->used)
            oldest = &cache->lines[i];
    *oldest = (struct cached){line, now};
}

/* The core needs the halfword of code there. */
static void fetch(uint32_t address)
{
    const uint32_t line = address / line_bytes;
    if (!in_flash(address) || line == held_line)
        return;
    if (!is_cached(&instructions, line)) {
        const uint64_t ready = held_since + wait_states + 1;
        const bool ahead = prefetch && line == held_line + 1;
        wait_for(line, !ahead ? wait_states : ready > now ? ready - now : 0, &instructions);
    }
    held_line = line;
    held_since = now;
}

/* The program reads or writes memory there. */
static void access_memory(uint32_t address)
{
    now++;
    if (wait_states != 0 && in_flash(address) && !is_cached(&constants, address / line_bytes))
        wait_for(address / line_bytes, wait_states, &constants);
}

#endif
