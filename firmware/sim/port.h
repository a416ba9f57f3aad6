/* The small file interface that drivers use alike on the host (stdio) and in the simulator (semihosting).
 * File names are relative to the folder in which the program or the simulator was started. Whatever goes
 * wrong ends the program through port_fail, so that callers need no error paths. */
#ifndef BNNCC_PORT_H
#define BNNCC_PORT_H

#include <stddef.h>

typedef enum { PORT_READ, PORT_WRITE } port_mode;

#if defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M'

#include "semihost.h"

typedef intptr_t port_file;

/* Prints one line. */
static inline void port_print(const char *text)
{
    semihost_puts(text);
    semihost_puts("\n");
}

/* Prints the message and ends the program with status 1. */
static inline void port_fail(const char *message)
{
    port_print(message);
    semihost_exit(1);
}

static inline port_file port_open(const char *name, port_mode mode)
{
    const port_file file = semihost_open(name, mode == PORT_READ ? SEMIHOST_MODE_RB : SEMIHOST_MODE_WB);
    if (file == -1) {
        semihost_puts(name);
        port_fail(": cannot be opened");
    }
    return file;
}

/* The number of bytes read; less than `count` only at the end of the file. */
static inline size_t port_read(port_file file, void *bytes, size_t count)
{
    return count - semihost_read(file, bytes, count);
}

static inline void port_write(port_file file, const void *bytes, size_t count)
{
    if (semihost_write(file, bytes, count) != 0)
        port_fail("cannot write: is the disk full?");
}

static inline void port_close(port_file file)
{
    if (semihost_close(file) != 0)
        port_fail("cannot close a file: is the disk full?");
}

#else

#include <stdio.h>
#include <stdlib.h>

typedef FILE *port_file;

static inline void port_print(const char *text)
{
    puts(text);
}

static inline void port_fail(const char *message)
{
    fprintf(stderr, "%s\n", message);
    exit(1);
}

static inline port_file port_open(const char *name, port_mode mode)
{
    const port_file file = fopen(name, mode == PORT_READ ? "rb" : "wb");
    if (file == NULL) {
        perror(name);
        exit(1);
    }
    return file;
}

static inline size_t port_read(port_file file, void *bytes, size_t count)
{
    return fread(bytes, 1, count, file);
}

static inline void port_write(port_file file, const void *bytes, size_t count)
{
    if (fwrite(bytes, 1, count, file) != count)
        port_fail("cannot write: is the disk full?");
}

static inline void port_close(port_file file)
{
    if (fclose(file) != 0)
        port_fail("cannot close a file: is the disk full?");
}

#endif

#endif
