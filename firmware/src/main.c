/* The runner: serves one generated model over the serial line (protocol.h). Nothing here knows which model it is. */
#include <string.h>

#include "board.h"
#include "frame.h"
#include "identity.h"
#include "model.h"
#include "profile.h"
#include "protocol.h"
#include "startup.h"

typedef MODEL(input) model_input[MODEL_CONST(INPUT_COUNT)];

enum {
    STEPS = MODEL_CONST(STEP_COUNT),
    INPUT_BYTES = sizeof(model_input),
    PAYLOAD_MAX = INPUT_BYTES > sizeof(float) ? INPUT_BYTES : sizeof(float),
    HELLO_BYTES = 28,
    RUN_HEAD_BYTES = 8 + 4 * STEPS
};

/* The receive buffer is a union so that the payload, 8 bytes in, is aligned for any input type. */
static union {
    uint64_t align;
    uint8_t bytes[FRAME_HEADER_BYTES + PAYLOAD_MAX + FRAME_CRC_BYTES];
} buffer;

static MODEL(context) context;
static MODEL(result) result;
static frame request;
static uint32_t clock_hz;
static uint8_t counter;

static void reply(uint8_t kind, uint8_t tag, uint16_t status) {
    frame_begin(kind, tag, status, 0u);
    frame_end();
}

static void send_u32(uint32_t value) {
    const uint8_t bytes[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16), (uint8_t)(value >> 24)};
    frame_payload(bytes, sizeof bytes);
}

static uint16_t serve_hello(void) {
    const uint8_t head[4] = {PROTOCOL_VERSION, counter, 0, 0};
    const size_t name_bytes = strlen(model_name);
    frame_begin(request.kind, request.tag, STATUS_OK, (uint32_t)(HELLO_BYTES + name_bytes));
    frame_payload(head, sizeof head);
    send_u32(clock_hz);
    send_u32(INPUT_BYTES);
    send_u32(sizeof result);
    send_u32(STEPS);
    send_u32(MODEL_CONST(EXIT_COUNT));
    send_u32(model_fingerprint);
    frame_payload(model_name, name_bytes);
    frame_end();
    return STATUS_OK;
}

static uint16_t serve_threshold(void) {
#if MODEL_CONST(EXIT_COUNT) > 0
    if (request.length != sizeof context.exit_threshold) {
        return STATUS_LENGTH;
    }
    memcpy(&context.exit_threshold, request.payload, sizeof context.exit_threshold);
    reply(request.kind, request.tag, STATUS_OK);
    return STATUS_OK;
#else
    return STATUS_UNSUPPORTED;
#endif
}

static uint16_t serve_run(void) {
    if (request.length != INPUT_BYTES) {
        return STATUS_LENGTH;
    }
    memset(&result, 0, sizeof result); /* what a skipped exit would have written reads as 0, not as the last sample's */
    profile_begin();
    MODEL(run)(&context, (const MODEL(input) *)(const void *)request.payload, &result);

    const uint64_t total = profile_total();
    const uint32_t *steps = profile_steps();
    frame_begin(request.kind, request.tag, STATUS_OK, (uint32_t)(RUN_HEAD_BYTES + sizeof result));
    send_u32((uint32_t)total);
    send_u32((uint32_t)(total >> 32));
    for (uint32_t i = 0; i < STEPS; i++) {
        send_u32(steps[i]);
    }
    frame_payload(&result, sizeof result);
    frame_end();
    return STATUS_OK;
}

/* Sends the answer, or returns the status that says why there is none. */
static uint16_t serve(void) {
    switch (request.kind) {
    case KIND_HELLO:
        return request.length == 0u ? serve_hello() : (uint16_t)STATUS_LENGTH;
    case KIND_THRESHOLD:
        return serve_threshold();
    case KIND_RUN:
        return serve_run();
    default:
        return STATUS_UNKNOWN;
    }
}

/* Every fault ends here: tell the host whose request it was, and start afresh. */
void HardFault_Handler(void) {
    reply(request.kind, request.tag, STATUS_FAULT);
    REGISTER(0xE000ED0Cu) = 0x05FA0004u; /* AIRCR: SYSRESETREQ */
    for (;;) {
    }
}

int main(void) {
    frame_reader reader;
    clock_hz = board_init();
    counter = profile_init();
    MODEL(init)(&context);
    frame_reader_init(&reader, buffer.bytes, sizeof buffer.bytes);
    for (;;) {
        if (!frame_feed(&reader, board_receive())) {
            continue;
        }
        if (!frame_parse(&reader, &request)) {
            reply(KIND_NONE, 0u, STATUS_DAMAGED);
            continue;
        }
        const uint16_t status = serve();
        if (status != STATUS_OK) {
            reply(request.kind, request.tag, status);
        }
    }
}
