// Short numbers of a group's columns, many at a time. Knows no code and no product.
#pragma once

#include "simd.h"
#include "weight.h"

namespace weft {

// Of neighbours in columns, as many as a vector has lanes.
struct ShortNumbers {
    Vec<float> scale, offset;

    explicit WEFT_INLINE ShortNumbers(const uint16_t* words) {
#if defined(__AVX512F__)
        const __m256i all = _mm256_loadu_si256((const __m256i*)words);
        const __m256i half = _mm256_and_si256(_mm256_srli_epi16(all, 1), _mm256_set1_epi16(ShortNumber::kScaleBits));
        const __m256i zero = _mm256_and_si256(all, _mm256_set1_epi16(ShortNumber::kMostZero));
        scale = (Vec<float>)_mm512_cvtph_ps(half);
        offset = (Vec<float>)_mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(zero));
#elif defined(__AVX2__)
        const __m128i all = _mm_loadu_si128((const __m128i*)words);
        const __m128i half = _mm_and_si128(_mm_srli_epi16(all, 1), _mm_set1_epi16(ShortNumber::kScaleBits));
        const __m128i zero = _mm_and_si128(all, _mm_set1_epi16(ShortNumber::kMostZero));
        scale = (Vec<float>)_mm256_cvtph_ps(half);
        offset = (Vec<float>)_mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(zero));
#else
        for (int i = 0; i < kWidth<float>; ++i) {
            scale[i] = ShortNumber{words[i]}.scale();
            offset[i] = float(words[i] & ShortNumber::kMostZero);
        }
#endif
        offset = offset * splat(-ShortNumber::kZeroUnit) * scale;
    }
};

}  // namespace weft
