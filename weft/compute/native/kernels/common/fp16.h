// Numbers of fp16 as their bits: one, or as many as a vector of fp32 has lanes.
#pragma once

#include <cmath>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels/common/vec.h"

namespace weft {

typedef uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));

inline float from_half(uint16_t bits) {
    uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023, wide;
    float y;
    if (exponent == 0) {  // zero or below the normal range: fraction * 2^-24
        y = float(fraction) * 5.9604644775390625e-8f;
        std::memcpy(&wide, &y, 4);
        wide |= sign;
    } else {
        wide = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
    }
    std::memcpy(&y, &wide, 4);
    return y;
}

// To nearest, ties to even; infinity beyond the largest.
inline uint16_t to_half(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    uint32_t sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest >= 0x7f800000) return uint16_t(sign | (rest > 0x7f800000 ? 0x7e00 : 0x7c00));
    if (rest >= 0x477ff000) return uint16_t(sign | 0x7c00);
    if (rest < 0x38800000) {  // below the normal range: units of 2^-24
        float magnitude;
        std::memcpy(&magnitude, &rest, 4);
        return uint16_t(sign | uint32_t(std::nearbyint(double(magnitude) * 16777216.0)));
    }
    uint32_t rounded = rest - 0x38000000 + 0xfff + (rest >> 13 & 1);
    return uint16_t(sign | rounded >> 13);
}

WEFT_INLINE Halves load_halves(const uint16_t* from) {
    Halves x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

WEFT_INLINE Vec<float> widen(Halves x) {
#if defined(__AVX512F__)
    return (Vec<float>)_mm512_cvtph_ps((__m256i)x);
#elif defined(__AVX2__)
    return (Vec<float>)_mm256_cvtph_ps((__m128i)x);
#else
    Vec<float> wide;
    for (int i = 0; i < kWidth<float>; ++i) wide[i] = from_half(x[i]);
    return wide;
#endif
}

// The bits as integers.
WEFT_INLINE VecInt<float> integers(Halves x) {
#if defined(__AVX512F__)
    return (VecInt<float>)_mm512_cvtepu16_epi32((__m256i)x);  // compilers widen in two halves
#else
    return __builtin_convertvector(x, VecInt<float>);
#endif
}

}  // namespace weft
