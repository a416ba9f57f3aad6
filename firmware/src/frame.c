#include "frame.h"

#include "board.h"

/* CRC-32 (reflected, polynomial 0xEDB88320) four bits at a time: 64 bytes of table are a fair price on a small part. */
static uint32_t crc_update(uint32_t crc, uint8_t byte) {
    static const uint32_t table[16] = {
        0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u, 0x4DB26158u, 0x5005713Cu,
        0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu, 0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu,
    };
    crc ^= byte;
    crc = (crc >> 4) ^ table[crc & 15u];
    return (crc >> 4) ^ table[crc & 15u];
}

static uint32_t read_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

void frame_reader_init(frame_reader *reader, uint8_t *data, size_t capacity) {
    reader->data = data;
    reader->capacity = capacity;
    reader->length = 0;
    reader->block = 0;
    reader->left = 0;
}

static void store(frame_reader *reader, uint8_t byte) {
    if (reader->length < reader->capacity) {
        reader->data[reader->length++] = byte;
    } else {
        reader->length = reader->capacity + 1u;
    }
}

bool frame_feed(frame_reader *reader, uint8_t byte) {
    if (byte == 0u) {
        return reader->block != 0u;
    }
    if (reader->left > 0u) {
        store(reader, byte);
        reader->left--;
        return false;
    }
    /* A new block. The one before stood for a zero at its end, unless it was of full length. */
    if (reader->block != 0u && reader->block != 0xFFu) {
        store(reader, 0u);
    }
    reader->block = byte;
    reader->left = (uint8_t)(byte - 1u);
    return false;
}

bool frame_parse(frame_reader *reader, frame *out) {
    const size_t length = reader->length;
    const bool complete = reader->left == 0u && length <= reader->capacity &&
                          length >= (size_t)FRAME_HEADER_BYTES + (size_t)FRAME_CRC_BYTES;
    frame_reader_init(reader, reader->data, reader->capacity);
    if (!complete) {
        return false;
    }
    const uint8_t *data = reader->data;
    const size_t checked = length - (size_t)FRAME_CRC_BYTES;
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < checked; i++) {
        crc = crc_update(crc, data[i]);
    }
    out->kind = data[0];
    out->tag = data[1];
    out->length = read_u32(data + 4);
    out->payload = data + FRAME_HEADER_BYTES;
    return ~crc == read_u32(data + checked) && out->length == checked - (size_t)FRAME_HEADER_BYTES;
}

/* The frame on its way out: COBS needs the length of a block before its bytes, so up to 254 of them wait here. */
static uint8_t waiting[254];
static uint8_t waiting_count;
static uint32_t sent_crc;

static void send_block(void) {
    board_send((uint8_t)(waiting_count + 1u));
    for (uint8_t i = 0; i < waiting_count; i++) {
        board_send(waiting[i]);
    }
    waiting_count = 0;
}

static void send_byte(uint8_t byte) {
    if (byte == 0u) {
        send_block();
        return;
    }
    waiting[waiting_count++] = byte;
    if (waiting_count == sizeof waiting) {
        send_block();
    }
}

void frame_payload(const void *bytes, size_t count) {
    const uint8_t *p = bytes;
    for (size_t i = 0; i < count; i++) {
        sent_crc = crc_update(sent_crc, p[i]);
        send_byte(p[i]);
    }
}

void frame_begin(uint8_t kind, uint8_t tag, uint16_t status, uint32_t length) {
    const uint8_t header[FRAME_HEADER_BYTES] = {
        kind,           tag,
        (uint8_t)status, (uint8_t)(status >> 8),
        (uint8_t)length, (uint8_t)(length >> 8), (uint8_t)(length >> 16), (uint8_t)(length >> 24),
    };
    board_send(0u);
    waiting_count = 0;
    sent_crc = 0xFFFFFFFFu;
    frame_payload(header, sizeof header);
}

void frame_end(void) {
    const uint32_t crc = ~sent_crc;
    for (unsigned shift = 0; shift < 32u; shift += 8u) {
        send_byte((uint8_t)(crc >> shift));
    }
    send_block();
    board_send(0u);
}
