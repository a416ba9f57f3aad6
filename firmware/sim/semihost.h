/* Arm semihosting: what a bare-metal program asks of the simulator (files, console, exit).
 * Source: Arm "Semihosting for AArch32 and AArch64". QEMU serves it on `bkpt 0xab`. */
#ifndef BNNCC_SEMIHOST_H
#define BNNCC_SEMIHOST_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    SEMIHOST_OPEN = 0x01,
    SEMIHOST_CLOSE = 0x02,
    SEMIHOST_WRITE0 = 0x04,
    SEMIHOST_WRITE = 0x05,
    SEMIHOST_READ = 0x06,
    SEMIHOST_EXIT_EXTENDED = 0x20
};
enum { SEMIHOST_MODE_RB = 1, SEMIHOST_MODE_WB = 5 };

static inline intptr_t semihost_call(intptr_t operation, const void *argument)
{
    register intptr_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

/* The handle of the file, or -1. `mode` is one of SEMIHOST_MODE_*. */
static inline intptr_t semihost_open(const char *name, int mode)
{
    const uintptr_t block[3] = {(uintptr_t)name, (uintptr_t)mode, strlen(name)};
    return semihost_call(SEMIHOST_OPEN, block);
}

static inline intptr_t semihost_close(intptr_t file)
{
    return semihost_call(SEMIHOST_CLOSE, &file);
}

/* The number of bytes NOT read: 0 when all were, `count` at the end of the file. */
static inline size_t semihost_read(intptr_t file, void *bytes, size_t count)
{
    const uintptr_t block[3] = {(uintptr_t)file, (uintptr_t)bytes, count};
    return (size_t)semihost_call(SEMIHOST_READ, block);
}

/* The number of bytes NOT written. */
static inline size_t semihost_write(intptr_t file, const void *bytes, size_t count)
{
    const uintptr_t block[3] = {(uintptr_t)file, (uintptr_t)bytes, count};
    return (size_t)semihost_call(SEMIHOST_WRITE, block);
}

static inline void semihost_puts(const char *text)
{
    (void)semihost_call(SEMIHOST_WRITE0, text);
}

/* Ends the simulator with this exit status. */
static inline void semihost_exit(int status)
{
    const uintptr_t application_exit = 0x20026;
    const uintptr_t block[2] = {application_exit, (uintptr_t)status};
    for (;;)
        (void)semihost_call(SEMIHOST_EXIT_EXTENDED, block);
}

#endif
