/* Constants of digits, included by digits.c alone: packed weights (bit 1 is +1), thresholds, float32 parameters. */

/* 8 x 3, 96 bytes */
static const uint32_t digits_step0_weights[24] = {
    0x80208020u, 0x00600008u, 0x000000b8u, 0x80108010u, 0x00580008u, 0x000000a0u, 0x7fef7fefu, 0x00480008u, 0x00000088u, 0x805f805fu, 0x00780010u, 0x000000a0u,
    0x805a805au, 0x00500008u, 0x000000a8u, 0x40004000u, 0x00000000u, 0x00000000u, 0x40004000u, 0x00000000u, 0x00000000u, 0x40004000u, 0x00000000u, 0x00000000u
};

/* 4 x 3, 48 bytes */
static const uint32_t digits_step2_weights[12] = {
    0x070c101bu, 0x0c02050cu, 0x00000016u, 0x16110f04u, 0x0a080c02u, 0x0000000au, 0x17090610u, 0x0e00180cu, 0x00000010u, 0x0a1f070fu, 0x140a0c05u, 0x0000000du
};

/* 4 x 1, 16 bytes */
static const float digits_step3_add0[4] = {
    0.5f, -1.25f, 3.0f, 0.100000001f
};
