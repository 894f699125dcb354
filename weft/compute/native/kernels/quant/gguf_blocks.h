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

// 256 numbers in 8 groups of 32, each with a 6-bit scale and a 6-bit minimum packed in 12 bytes.
inline void q4_k(const uint8_t* __restrict block, float* __restrict out) {
    const float all_scales = half_at(block), all_floors = half_at(block + 2);
    const uint8_t *packed = block + 4, *codes = block + 16;
    for (int g = 0; g < 8; ++g) {
        const int low = packed[g & 3], min = packed[4 + (g & 3)], high = packed[8 + (g & 3)];
        const int scale = g < 4 ? low & 63 : (high & 15) | ((low >> 2) & 48);
        const int floor = g < 4 ? min & 63 : (high >> 4) | ((min >> 2) & 48);
        const float times = float(scale) * all_scales, less = float(floor) * all_floors;
        const uint8_t* from = codes + 32 * (g / 2);
        const int shift = 4 * (g & 1);
        for (int i = 0; i < 32; ++i) out[32 * g + i] = float((from[i] >> shift) & 15) * times - less;
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
    {"Q8_0", 34, 32, q8_0}, {"Q4_0", 18, 32, q4_0}, {"Q4_1", 20, 32, q4_1}, {"Q4_K", 144, 256, q4_k}, {"Q6_K", 210, 256, q6_k},
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
