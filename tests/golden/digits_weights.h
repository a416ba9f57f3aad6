/* Constants of digits, included by digits.c alone: packed weights (bit 1 is +1), thresholds, float32 parameters. */

/* 5 x 1, 20 bytes */
static const uint32_t digits_step0_weights[5] = {
    0x000001a5u, 0x000000ecu, 0x00000007u, 0x0000019au, 0x000000eau
};

/* 1 x 5, 10 bytes */
static const int16_t digits_step0_levels[5] = {
    -32, 17, 17, -95, 91
};

/* 1 x 1, 1 bytes */
static const uint8_t digits_step0_inverts[1] = {
    18
};

/* 4 x 3, 48 bytes */
static const uint32_t digits_step1_weights[12] = {
    0x070c101bu, 0x0c02050cu, 0x00000016u, 0x16110f04u, 0x0a080c02u, 0x0000000au, 0x17090610u, 0x0e00180cu, 0x00000010u, 0x0a1f070fu, 0x140a0c05u, 0x0000000du
};

/* 4 x 1, 16 bytes */
static const float digits_step2_add0[4] = {
    0.5f, -1.25f, 3.0f, 0.100000001f
};
