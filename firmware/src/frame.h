/* Frames on the serial line; protocol.h describes them. */
#ifndef FRAME_H
#define FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FRAME_HEADER_BYTES = 8, FRAME_CRC_BYTES = 4 };

/* Receives one frame at a time into `data`, which holds header, payload and crc. */
typedef struct {
    uint8_t *data;
    size_t capacity; /* bytes at data: header, largest payload, crc */
    size_t length;   /* bytes received; capacity + 1 once the frame has proved too long */
    uint8_t block;   /* the COBS code of the current block, 0 before the first */
    uint8_t left;    /* bytes missing in the current block */
} frame_reader;

typedef struct {
    uint8_t kind;
    uint8_t tag;
    uint32_t length;
    const uint8_t *payload;
} frame;

void frame_reader_init(frame_reader *reader, uint8_t *data, size_t capacity);

/* Takes one byte from the line. True at the end of a frame that holds anything; then read it with frame_parse. */
bool frame_feed(frame_reader *reader, uint8_t byte);

/* Takes the frame apart and makes the reader ready for the next. False if the frame is damaged. `out->payload` points
 * into the reader's data and is valid until the next frame_feed. */
bool frame_parse(frame_reader *reader, frame *out);

/* Sends a frame through board_send: its header, then exactly `length` payload bytes in any number of pieces, then the end. */
void frame_begin(uint8_t kind, uint8_t tag, uint16_t status, uint32_t length);
void frame_payload(const void *bytes, size_t count);
void frame_end(void);

#endif
