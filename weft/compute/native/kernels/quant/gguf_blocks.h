// Dequantizes blocks of GGUF formats to fp32 or bf16, bit for bit as weft/compute/quant/: every product and every sum
// is rounded separately (no FMA). Layouts: block_q4_0 and its like in ggml's ggml-common.h.
#pragma once

#include <stdint.h>
#include <string.h>

#include "kernels/common/fp16.h"
#include "runtime/instruction.h"
#include "kernels/common/vec.h"

namespace weft {

inline float half_at(const uint8_t* at) {
    uint16_t bits;
    memcpy(&bits, at, sizeof bits);
    return from_half(bits);
}

inline void q8_0(const uint8_t* __restrict block, float* __restrict out) {
    const float scale = half_at(block);
    for (int i = 0; i < 32; ++i) out[i] = float(int8_t(block[2 + i])) * scale;
}

inline void q4_0(const uint8_t* __restrict block, float* __restrict out) {
    const float scale = half_at(block);
    for (int i = 0; i < 16; ++i) out[i] = float(int(block[2 + i] & 15) - 8) * scale;
    for (int i = 0; i < 16; ++i) out[16 + i] = float(int(block[2 + i] >> 4) - 8) * scale;
}

inline void q4_1(const uint8_t* __restrict block, float* __restrict out) {
    const float scale = half_at(block), offset = half_at(block + 2);
    for (int i = 0; i < 16; ++i) out[i] = float(block[4 + i] & 15) * scale + offset;
    for (int i = 0; i < 16; ++i) out[16 + i] = float(block[4 + i] >> 4) * scale + offset;
}

inline void q5_0(const uint8_t* __restrict block, float* __restrict out) {
    const float scale = half_at(block);
    uint32_t high;
    memcpy(&high, block + 2, sizeof high);
    for (int i = 0; i < 16; ++i) out[i] = float(int((block[6 + i] & 15) | ((high >> i & 1) << 4)) - 16) * scale;
    for (int i = 0; i < 16; ++i) out[16 + i] = float(int((block[6 + i] >> 4) | ((high >> (16 + i) & 1) << 4)) - 16) * scale;
}

inline void q5_1(const uint8_t* __restrict block, float* __restrict out) {
    const float scale = half_at(block), offset = half_at(block + 2);
    uint32_t high;
    memcpy(&high, block + 4, sizeof high);
    for (int i = 0; i < 16; ++i) out[i] = float((block[8 + i] & 15) | ((high >> i & 1) << 4)) * scale + offset;
    for (int i = 0; i < 16; ++i) out[16 + i] = float((block[8 + i] >> 4) | ((high >> (16 + i) & 1) << 4)) * scale + offset;
}

// Of 4 bits that choose one of 16 numbers.
constexpr int8_t kIq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr int8_t kE2m1Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

inline void chosen_of_16(const uint8_t* __restrict codes, const int8_t* numbers, float scale, float* __restrict out) {
    for (int i = 0; i < 16; ++i) out[i] = float(numbers[codes[i] & 15]) * scale;
    for (int i = 0; i < 16; ++i) out[16 + i] = float(numbers[codes[i] >> 4]) * scale;
}

inline void iq4_nl(const uint8_t* __restrict block, float* __restrict out) {
    chosen_of_16(block + 2, kIq4, half_at(block), out);
}

// The scale is 2 to the power of byte 0 - 128: half of what e8m0 says, for the numbers are doubled.
inline void mxfp4(const uint8_t* __restrict block, float* __restrict out) {
    const uint32_t bits = block[0] < 2 ? 0x00200000u << block[0] : uint32_t(block[0] - 1) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    chosen_of_16(block + 1, kE2m1Doubled, scale, out);
}

// 256 numbers in 8 groups of 32, each with a 6-bit scale: the low 4 bits of all in 4 bytes, the high 2 in the 2 before.
inline void iq4_xs(const uint8_t* __restrict block, float* __restrict out) {
    const float all_scales = half_at(block);
    const int high = block[2] | block[3] << 8;
    for (int g = 0; g < 8; ++g) {
        const int scale = ((block[4 + g / 2] >> (4 * (g & 1))) & 15) | ((high >> (2 * g) & 3) << 4);
        chosen_of_16(block + 8 + 16 * g, kIq4, float(scale - 32) * all_scales, out + 32 * g);
    }
}

// Of Q4_K and Q5_K: 8 groups of 32 numbers, each with a 6-bit scale and a 6-bit minimum packed in 12 bytes.
struct GroupScale {
    float times, less;

    GroupScale(const uint8_t* block, int g) {
        const uint8_t* packed = block + 4;
        const int low = packed[g & 3], min = packed[4 + (g & 3)], high = packed[8 + (g & 3)];
        times = float(g < 4 ? low & 63 : (high & 15) | ((low >> 2) & 48)) * half_at(block);
        less = float(g < 4 ? min & 63 : (high >> 4) | ((min >> 2) & 48)) * half_at(block + 2);
    }
};

inline void q4_k(const uint8_t* __restrict block, float* __restrict out) {
    for (int g = 0; g < 8; ++g) {
        const GroupScale scale(block, g);
        const uint8_t* from = block + 16 + 32 * (g / 2);
        const int shift = 4 * (g & 1);
        for (int i = 0; i < 32; ++i) out[32 * g + i] = float((from[i] >> shift) & 15) * scale.times - scale.less;
    }
}

// As Q4_K, with the fifth bits of the groups in bits 0 to 7 of 32 bytes before the others.
inline void q5_k(const uint8_t* __restrict block, float* __restrict out) {
    for (int g = 0; g < 8; ++g) {
        const GroupScale scale(block, g);
        const uint8_t *high = block + 16, *from = block + 48 + 32 * (g / 2);
        const int shift = 4 * (g & 1);
        for (int i = 0; i < 32; ++i)
            out[32 * g + i] = float(((from[i] >> shift) & 15) | ((high[i] >> g & 1) << 4)) * scale.times - scale.less;
    }
}

// 256 numbers in 16 groups of 16, each with a 4-bit scale and a 4-bit minimum in a byte.
inline void q2_k(const uint8_t* __restrict block, float* __restrict out) {
    const float all_scales = half_at(block + 80), all_floors = half_at(block + 82);
    for (int g = 0; g < 16; ++g) {
        const float times = float(block[g] & 15) * all_scales, less = float(block[g] >> 4) * all_floors;
        const uint8_t* from = block + 16 + 32 * (g / 8) + 16 * (g & 1);
        const int shift = g / 2 % 4 * 2;
        for (int i = 0; i < 16; ++i) out[16 * g + i] = float((from[i] >> shift) & 3) * times - less;
    }
}

// 256 numbers in 16 groups of 16, each with a 6-bit scale: the low 4 bits of all in 8 bytes, then the high 2. The third
// bits of values are in bits 0 to 7 of the first 32 bytes; a bit that is not set takes 4 away.
inline void q3_k(const uint8_t* __restrict block, float* __restrict out) {
    const float all_scales = half_at(block + 108);
    const uint8_t *high = block, *low = block + 32, *packed = block + 96;
    for (int g = 0; g < 16; ++g) {
        const int scale = ((packed[g & 7] >> (g / 8 * 4)) & 15) | ((packed[8 + (g & 3)] >> (g / 4 * 2) & 3) << 4);
        const float times = float(scale - 32) * all_scales;
        const int shift = g / 2 % 4 * 2, bit = g / 2, at = 16 * (g & 1);
        for (int i = 0; i < 16; ++i) {
            const int code = (low[32 * (g / 8) + at + i] >> shift) & 3;
            out[16 * g + i] = float(code - 4 * int(!(high[at + i] >> bit & 1))) * times;
        }
    }
}

// 256 numbers in 16 groups of 16, each with an int8 scale: the low 4 bits of all, then their high 2 bits.
inline void q6_k(const uint8_t* __restrict block, float* __restrict out) {
    const float all_scales = half_at(block + 208);
    for (int g = 0; g < 16; ++g) {
        const int half = g / 8, quarter = g / 2 % 4, at = 16 * (g & 1);
        const uint8_t *low = block + 64 * half + 32 * (quarter & 1) + at, *high = block + 128 + 32 * half + at;
        const float scale = float(int8_t(block[192 + g])) * all_scales;
        const int low_shift = 4 * (quarter / 2), high_shift = 2 * quarter;
        for (int i = 0; i < 16; ++i) {
            const int code = ((low[i] >> low_shift) & 15) | (((high[i] >> high_shift) & 3) << 4);
            out[16 * g + i] = float(code - 32) * scale;
        }
    }
}

struct BlockFormat {
    const char* name;
    int bytes, numbers;
    void (*decode)(const uint8_t*, float*);
};

constexpr BlockFormat kBlockFormats[] = {
    {"Q8_0", 34, 32, q8_0},   {"Q4_0", 18, 32, q4_0},   {"Q4_1", 20, 32, q4_1},     {"Q5_0", 22, 32, q5_0},
    {"Q5_1", 24, 32, q5_1},   {"Q2_K", 84, 256, q2_k},  {"Q3_K", 110, 256, q3_k},   {"Q4_K", 144, 256, q4_k},
    {"Q5_K", 176, 256, q5_k}, {"Q6_K", 210, 256, q6_k}, {"IQ4_NL", 18, 32, iq4_nl}, {"IQ4_XS", 136, 256, iq4_xs},
    {"MXFP4", 17, 32, mxfp4},
};

inline void decode_narrow(const BlockFormat& format, const uint8_t* blocks, int64_t count, bf16* out) {
    constexpr int W = kWidth<float>;
    float numbers[256];
    for (int64_t b = 0; b < count; ++b, out += format.numbers) {
        format.decode(blocks + b * format.bytes, numbers);
        for (int i = 0; i < format.numbers; i += W) store(out + i, load(numbers + i));
    }
}

}  // namespace weft

// As fp32, or rounded to bf16. 0 where `name` is no format that is known here, or `dtype` another one.
WEFT_C int weft_decode_blocks(const char* name, const uint8_t* blocks, int64_t count, int dtype, void* out) {
    if (dtype != weft::F32 && dtype != weft::BF16) return 0;
    for (const weft::BlockFormat& format : weft::kBlockFormats)
        if (!strcmp(format.name, name)) {
            if (dtype == weft::BF16) weft::decode_narrow(format, blocks, count, static_cast<weft::bf16*>(out));
            else
                for (int64_t b = 0; b < count; ++b)
                    format.decode(blocks + b * format.bytes, static_cast<float*>(out) + b * format.numbers);
            return 1;
        }
    return 0;
}
