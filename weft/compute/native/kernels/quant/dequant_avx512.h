// Codes of a pair as numbers, 64 at a time: two neighbours of the depth for 32 columns. AVX-512 only.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/gemm/gemm_tile.h"

#if defined(__AVX512F__)

namespace weft {

// Codes of one pair as values, fp32. Values of W_INT8 are codes times kCodeUnit, without their scale. As they lie: of columns
// 0 to 7, 8 to 15, ..., lane 2 i the first and lane 2 i + 1 the second neighbour of column i. `Apart`: of columns 0 to 15
// and 16 to 31, their first neighbours, then their second ones.
template <int Kind, bool Apart> class CodesOfPair {
public:
    static constexpr bool kGrouped = Kind != W_INT8;
    static constexpr int kChunk = chunk_of(Kind), kSteps = kChunk / 2, kChunkBytes = kPair * 8;

    struct Scales {  // of a group, for vectors of values in turn; for W_INT8 nothing
        static constexpr int kCount = Apart ? 2 : 4;
        __m512 scale[kCount], offset[kCount];
    };
    struct Words {  // of a chunk
        __m512i of[4];
    };

    CodesOfPair(const Weight& w, int pair) : codes_(pair_data(w, pair)) {
        int64_t numbers = int64_t(pair) * ceil_div(w.depth, kGroup) * kPair;
        if (kGrouped) scale_ = static_cast<const uint16_t*>(w.scale) + numbers;
        if (Kind == W_INT4) {
            if (w.offset) offset_ = static_cast<const uint16_t*>(w.offset) + numbers;
            short_ = w.scale16;
            __m256i table = _mm256_loadu_si256(static_cast<const __m256i*>(w.table));
            table_ = (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(table), 16);
        }
    }

    WEFT_INLINE Scales scales(int group) const {
        Scales found;
        if (Kind == W_INT4 && short_) return short_of_group(scale_ + group * kPair);
        if constexpr (kGrouped) of_group(scale_ + group * kPair, found.scale, Kind == W_INT4 ? 1.0f : 1.0f / kCodeUnit);
        if constexpr (Kind == W_INT4) {
#pragma GCC unroll 4
            for (int i = 0; i < Scales::kCount; ++i) found.offset[i] = _mm512_setzero_ps();
            if (offset_) of_group(offset_ + group * kPair, found.offset, 1.0f);
        }
        return found;
    }

    WEFT_INLINE Words words(int chunk) const {
        const char* at = codes_ + int64_t(chunk) * kChunkBytes;
        Words found;
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) found.of[i] = _mm512_loadu_si512(at + 64 * i);
        if constexpr (Apart) take_apart(found.of);
        return found;
    }

    // What is soon taken, when `chunk` is.
    WEFT_INLINE const char* soon(int chunk) const { return codes_ + kSoon + int64_t(chunk) * kChunkBytes; }

    // Step `j` of a chunk.
    WEFT_INLINE void take(const Words& words, const Scales& scales, int j, __m512 (&values)[4]) const {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            // Codes have 8 bits at most and scales 11: products are exact, and one rounding is left.
            if constexpr (Kind == W_INT4) {
                __m512 x = _mm512_permutexvar_ps(_mm512_srli_epi32(words.of[i], unsigned(4 * j)), table_);
                values[i] = _mm512_fmadd_ps(x, scales.scale[i % Scales::kCount], scales.offset[i % Scales::kCount]);
            } else {
                __m512 x = _mm512_cvtepi32_ps(_mm512_shuffle_epi8(words.of[i], highest(j)));
                values[i] = kGrouped ? _mm512_mul_ps(x, scales.scale[i % Scales::kCount]) : x;
            }
        }
    }

    // Calls step(j, values, last) for the depth [from, from + depth) in order, `last` for the single one at the end of
    // an odd depth (a type, as a constant), and chunk(c) as each chunk begins; `from` is a multiple of kGroup.
    template <class Step, class Chunk> WEFT_INLINE void each_step(int from, int depth, Step step, Chunk begin) const {
        for (int group = from / kGroup; depth > 0; ++group, depth -= kGroup) {
            const Scales scales_now = scales(group);
            if (__builtin_expect(depth < kGroup, 0)) return some_steps(group, depth, scales_now, step, begin);
#pragma GCC unroll 1
            for (int c = group * (kGroup / kChunk); c < (group + 1) * (kGroup / kChunk); ++c) {
                begin(c);
                const Words words_now = words(c);
#pragma GCC unroll 8
                for (int j = 0; j < kSteps; ++j) {
                    __m512 values[4];
                    take(words_now, scales_now, j, values);
                    step(j, values, std::false_type());
                }
            }
        }
    }

private:
    template <class Step, class Chunk>
    WEFT_INLINE void some_steps(int group, int depth, const Scales& scales_now, Step step, Chunk begin) const {
        for (int c = group * (kGroup / kChunk); depth > 0; ++c, depth -= kChunk) {
            begin(c);
            const Words words_now = words(c);
            int steps = std::min(kSteps, depth / 2);
            __m512 values[4];
            for (int j = 0; j < steps; ++j) {
                take(words_now, scales_now, j, values);
                step(j, values, std::false_type());
            }
            if (depth >= kChunk || depth % 2 == 0) continue;
            take(words_now, scales_now, steps, values);
            step(steps, values, std::true_type());
        }
    }

    // Byte `j` of each word to its highest, zeros below: the word is then the byte times kCodeUnit.
    static WEFT_INLINE __m512i highest(int j) {
        const __m512i first = _mm512_broadcast_i32x4(_mm_setr_epi32(0x00808080, 0x04808080, 0x08808080, 0x0c808080));
        return _mm512_add_epi32(first, _mm512_set1_epi32(j << 24));
    }

    // Words of two neighbours of 8 columns each: those of 16 columns' first neighbours, and of their second ones.
    static WEFT_INLINE void take_apart(__m512i (&words)[4]) {
        const __m512i first = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(1));
        const __m512i low[2] = {words[0], words[1]}, high[2] = {words[2], words[3]};
        words[0] = _mm512_permutex2var_epi32(low[0], first, low[1]);
        words[1] = _mm512_permutex2var_epi32(high[0], first, high[1]);
        words[2] = _mm512_permutex2var_epi32(low[0], second, low[1]);
        words[3] = _mm512_permutex2var_epi32(high[0], second, high[1]);
    }

    // 32 fp16 numbers as fp32 times `unit`, for the lanes of values.
    static WEFT_INLINE void of_group(const uint16_t* numbers, __m512 (&lanes)[Scales::kCount], float unit) {
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            __m512 wide = (__m512)widen(load_halves(numbers + 16 * half));
            if (unit != 1.0f) wide = _mm512_mul_ps(wide, _mm512_set1_ps(unit));
            to_lanes(wide, half, lanes);
        }
    }

    // Of 16 columns, for the lanes of values.
    static WEFT_INLINE void to_lanes(__m512 columns, int half, __m512 (&lanes)[Scales::kCount]) {
        if constexpr (Apart) {
            lanes[half] = columns;
        } else {
            const __m512i low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
            lanes[2 * half] = _mm512_permutexvar_ps(low, columns);
            lanes[2 * half + 1] = _mm512_permutexvar_ps(_mm512_add_epi32(low, _mm512_set1_epi32(8)), columns);
        }
    }

    static WEFT_INLINE Scales short_of_group(const uint16_t* numbers) {
        Scales found;
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            const ShortNumbers columns(load_halves(numbers + 16 * half));
            to_lanes((__m512)columns.scale, half, found.scale);
            to_lanes((__m512)columns.offset(), half, found.offset);
        }
        return found;
    }

    const char* codes_;
    const uint16_t* scale_ = nullptr;
    const uint16_t* offset_ = nullptr;
    bool short_ = false;
    __m512 table_;
};

}  // namespace weft

#endif
