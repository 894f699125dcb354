// Numbers of W_BF12 out of their codes, 64 at a time: two neighbours of the depth for 32 columns, as pairs of bf16.
// AVX-512 only.
#pragma once

#include "bf12.h"
#include "codes_of_pair.h"

#if defined(__AVX512F__)

namespace weft {

// As of other kinds, but a step's values are two vectors of bf16 pairs, of columns 0 to 15 and 16 to 31.
template <bool Apart> class CodesOfPair<W_BF12, Apart> {
public:
    static constexpr bool kGrouped = true;
    static constexpr int kChunk = 16, kSteps = kChunk / 2, kChunkBytes = kSteps * kStepBf12;

    CodesOfPair(const Weight& w, int pair)
        : codes_(pair_data(w, pair)), next_(pair_bytes(W_BF12, w.depth)),
          groups_(static_cast<const Bf12Group*>(w.scale) + bf12_group(w, pair, 0)),
          far_(static_cast<const FarNumber*>(w.offset)) {}

    // Fetches what few rows soon take, which memory bounds; for more rows the same chunk of the next pair.
    template <int MR> WEFT_INLINE void fetch(int chunk) const {
        const char* at = codes_ + (MR <= 3 ? kSoon : next_) + int64_t(chunk) * kChunkBytes;
#pragma GCC unroll 12
        for (int i = 0; i < kChunkBytes; i += 64) __builtin_prefetch(at + i, 0, 2);
    }

    template <class Step, class Chunk> WEFT_INLINE void each_step(int from, int depth, Step step, Chunk begin) const {
        for (int group = from / kGroup; depth > 0; ++group, depth -= kGroup) {
            const Bf12Group& now = groups_[group];
            const __m512i exponents = exponents_of(now.highest);
            if (__builtin_expect(depth < kGroup || now.far, 0)) {
                some_steps(group, std::min(depth, kGroup), exponents, step, begin);
                continue;
            }
#pragma GCC unroll 1
            for (int c = group * (kGroup / kChunk); c < (group + 1) * (kGroup / kChunk); ++c) {
                begin(c);
                const char* at = codes_ + int64_t(c) * kChunkBytes;
#pragma GCC unroll 8
                for (int j = 0; j < kSteps; ++j) {
                    __m512i values[2];
                    take(at + j * kStepBf12, exponents, values);
                    step(j, values, std::false_type());
                }
            }
        }
    }

private:
    // Of each code in place, twice: a look-up takes the lowest five bits of a half word.
    static WEFT_INLINE __m512i exponents_of(int highest) {
        const __m256i codes = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        const __m256i down = _mm256_sub_epi16(_mm256_set1_epi16(int16_t(highest)), codes);
        return _mm512_broadcast_i64x4(_mm256_maskz_slli_epi16(0x7fff, down, 7));
    }

    static WEFT_INLINE void take(const char* step, __m512i exponents, __m512i (&values)[2]) {
        const __m512i kept = _mm512_set1_epi16(int16_t(0x807f));  // of a byte that was widened with its sign
        const __m512i codes = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(step + kStepNumbers)));
        const __m512i of[2] = {codes, _mm512_srli_epi16(codes, 4)};
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
            const __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(step + 32 * i)));
            values[i] = _mm512_ternarylogic_epi32(wide, kept, _mm512_permutexvar_epi16(of[i], exponents), 0xea);  // a & b | c
        }
    }

    // Of a group with far numbers, or of the last one.
    template <class Step, class Chunk>
    WEFT_INLINE void some_steps(int group, int depth, __m512i exponents, Step step, Chunk begin) const {
        const FarNumber *far = far_ + groups_[group].first, *end = far + groups_[group].far;
        for (int j = 0; j < ceil_div(depth, 2); ++j) {
            const int s = group * kGroup / 2 + j;
            if (j % kSteps == 0) begin(s / kSteps);
            __m512i values[2];
            take(codes_ + int64_t(s) * kStepBf12, exponents, values);
            for (; far < end && far->place / kStepNumbers == j; ++far) {
                const __m512i number = _mm512_set1_epi16(int16_t(far->number.bits));
                const uint64_t place = uint64_t(1) << far->place % kStepNumbers;
                values[0] = _mm512_mask_mov_epi16(values[0], __mmask32(place), number);
                values[1] = _mm512_mask_mov_epi16(values[1], __mmask32(place >> 32), number);
            }
            if (2 * j + 1 < depth) step(j % kSteps, values, std::false_type());
            else step(j % kSteps, values, std::true_type());
        }
    }

    const char* codes_;
    int64_t next_;
    const Bf12Group* groups_;
    const FarNumber* far_;
};

}  // namespace weft

#endif
