// Groups of bounds (upper_bounds.h) where no instruction adds four products of bytes: pairs are added in 16 bits, which hold
// the eight pairs that half of a group's coarse codes are, but of fine ones one. AVX2 only.
#pragma once

#include "kernels/argmax_bounds/bounded_rows.h"
#include "kernels/gemm/int8_words.h"

#if defined(WEFT_ONLY_AVX2)

namespace weft {

template <int R> using BoundSums = __m256i[R];

WEFT_INLINE __m256i line_at(const uint8_t* codes) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)); }
WEFT_INLINE __m256i four_of(const int8_t* x) { return (__m256i)four_codes(x); }
static_assert(kBoundGroup / 8 * 2 * 15 * 127 <= INT16_MAX, "coarse codes of half a group are added in 16 bits");

// sums += the rows' codes of a group of the depth times those of eight columns, 128 bytes from four of the depth to four.
template <int R> WEFT_INLINE void add_fine(BoundSums<R>& sums, const uint8_t* codes, const int8_t* x) {
#pragma GCC unroll 1
    for (int k = 0; k < kBoundGroup; k += 8, x += 8 * R)
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half, codes += kCodeLine) {
            const __m256i words = _mm256_xor_si256(line_at(codes), _mm256_set1_epi8(-128));
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
                sums[r] = _mm256_add_epi32(sums[r], four_products(words, four_of(x + 8 * r + 4 * half)));
        }
}

// The same out of coarse codes, 128 bytes from eight of the depth to eight.
template <int R> WEFT_INLINE void add_coarse(BoundSums<R>& sums, const uint8_t* codes, const int8_t* x) {
    const __m256i low = _mm256_set1_epi8(15);
    __m256i pairs[2][R] = {};
#pragma GCC unroll 1
    for (int k = 0; k < kBoundGroup; k += 8, x += 8 * R, codes += kCodeLine) {
        const __m256i both = line_at(codes), first = _mm256_and_si256(both, low),
                      next = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            pairs[0][r] = _mm256_add_epi16(pairs[0][r], _mm256_maddubs_epi16(first, four_of(x + 8 * r)));
            pairs[1][r] = _mm256_add_epi16(pairs[1][r], _mm256_maddubs_epi16(next, four_of(x + 8 * r + 4)));
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
        for (int half = 0; half < 2; ++half) sums[r] = _mm256_add_epi32(sums[r], of_pairs(pairs[half][r]));
}

WEFT_INLINE Vec<float> eight_numbers(const uint8_t* bytes) {
    const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes));
    return (Vec<float>)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight));
}

// Groups [from, to), whose codes begin at `codes`; where they end. With every line of codes `Lines` of 64 bytes are fetched.
template <int R, bool Coarse, int Lines>
WEFT_INLINE const uint8_t* add_groups(const BoundedRows& rows, int from, int to, const uint8_t* codes, int64_t ahead,
                                      Vec<float> bounds[][kBoundVectors]) {
    const BoundedGroup* group = rows.groups + from * R;
    const int8_t* x = rows.codes + int64_t(from) * kBoundGroup * R;
    constexpr int64_t kBytes = bound_group_bytes(!Coarse);
    for (int g = from; g < to; ++g, group += R, x += kBoundGroup * R, codes += kBytes) {
        const uint8_t* const steps = codes + bound_codes_bytes(!Coarse);
#pragma GCC unroll 1
        for (int v = 0; v < kBoundVectors; ++v) {
            if constexpr (Lines > 0)
                for (int64_t at = 128 / Lines * v; at < kBytes; at += 128 / Lines * kBoundVectors)
                    _mm_prefetch(codes + ahead + at, _MM_HINT_T1);
            BoundSums<R> sums;
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) sums[r] = _mm256_set1_epi32(group[r].start);
            Coarse ? add_coarse<R>(sums, codes + 32 * v, x) : add_fine<R>(sums, codes + 32 * v, x);
            const Vec<float> step = eight_numbers(steps + 8 * v), apart = eight_numbers(steps + kPair + 8 * v);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                Vec<float> sum = (Vec<float>)_mm256_cvtepi32_ps(sums[r]);
                if (Coarse) sum = fused(apart, splat(group[r].beside), sum);
                bounds[r][v] = fused(sum, step * group[r].scale, bounds[r][v]);
            }
        }
    }
    return codes;
}

}  // namespace weft

#endif
