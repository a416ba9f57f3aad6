/* firmware/src/frame.c as a library for the tests: bytes in, what came of them out. */
#include "board.h"
#include "frame.h"

static uint8_t *line;
static size_t line_length;

void board_send(uint8_t byte) {
    line[line_length++] = byte;
}

/* Writes the frame to `out`, its payload in pieces of `piece` bytes; returns how many bytes. */
size_t shim_encode(uint8_t kind, uint8_t tag, uint16_t status, const uint8_t *payload, uint32_t length, size_t piece,
                   uint8_t *out) {
    line = out;
    line_length = 0;
    frame_begin(kind, tag, status, length);
    for (size_t i = 0; i < length; i += piece) {
        frame_payload(payload + i, length - i < piece ? length - i : piece);
    }
    frame_end();
    return line_length;
}

/* Feeds `bytes`. For each frame writes to `out`: 0 if damaged; else 1, kind, tag, length (2 bytes), payload. */
size_t shim_decode(const uint8_t *bytes, size_t count, uint8_t *data, size_t capacity, uint8_t *out) {
    frame_reader reader;
    size_t n = 0;
    frame_reader_init(&reader, data, capacity);
    for (size_t i = 0; i < count; i++) {
        frame f;
        if (!frame_feed(&reader, bytes[i])) {
            continue;
        }
        if (!frame_parse(&reader, &f)) {
            out[n++] = 0;
            continue;
        }
        out[n++] = 1;
        out[n++] = f.kind;
        out[n++] = f.tag;
        out[n++] = (uint8_t)f.length;
        out[n++] = (uint8_t)(f.length >> 8);
        for (uint32_t j = 0; j < f.length; j++) {
            out[n++] = f.payload[j];
        }
    }
    return n;
}
