/* The conversation between bnncc and a board: the one place where it is described (bnncc/board/serial.py is the other end).
 *
 * Line: 8 bits, no parity, 1 stop bit, 115200 baud. All numbers are little endian. The host asks, the board answers;
 * the board never speaks first.
 *
 * Frame: 0x00, COBS(header, payload, crc), 0x00. Byte-stuffed in this way (Consistent Overhead Byte Stuffing) a frame
 * holds no 0x00, so the next 0x00 always ends it: a frame that was cut off, or noise, costs no more than itself, and no
 * timeout is needed on the board. Nothing between two 0x00 is no frame and gets no answer.
 *
 *   header   u8 kind | u8 tag | u16 status | u32 length of the payload
 *   crc      u32, CRC-32 as in zlib, over header and payload
 *
 * An answer repeats the kind and the tag of its request. The tag lets the host repeat a request and drop late answers;
 * every request may be repeated, none changes the meaning of the next. A damaged frame is answered with kind 0, tag 0,
 * STATUS_DAMAGED. An answer whose status is not STATUS_OK has no payload. Requests have status 0.
 *
 *   kind            request                    answer
 *   HELLO           -                          u8 version | u8 counter | u16 0 | u32 clock in Hz | u32 input bytes |
 *                                              u32 result bytes | u32 steps | u32 exits | u32 fingerprint | name
 *   THRESHOLD       f32 entropy in nats        -                   (STATUS_UNSUPPORTED: the model has no exits)
 *   RUN             the input, as in C         u64 cycles | u32 cycles[steps] | the result struct, as in C
 *
 * `counter` says what counted the cycles; with COUNTER_NONE they are all 0. A step that an early exit skipped has 0.
 * `fingerprint` is the CRC-32 of the generated header and source: the same name with other weights is another model.
 * After STATUS_FAULT the board restarts, and the exit threshold is the model's own again.
 */
#ifndef PROTOCOL_H
#define PROTOCOL_H

enum { PROTOCOL_VERSION = 1 };

enum { KIND_NONE = 0, KIND_HELLO = 1, KIND_THRESHOLD = 2, KIND_RUN = 3 };

enum {
    STATUS_OK = 0,
    STATUS_DAMAGED = 1,     /* length or checksum wrong, or longer than any request of this model */
    STATUS_UNKNOWN = 2,     /* no such kind */
    STATUS_LENGTH = 3,      /* the payload has not the length that this kind needs */
    STATUS_UNSUPPORTED = 4, /* not with this model */
    STATUS_FAULT = 5        /* the processor faulted while it served this request */
};

enum { COUNTER_NONE = 0, COUNTER_DWT = 1, COUNTER_SYSTICK = 2 };

#endif
