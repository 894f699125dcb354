// Codes of a pair as numbers, 64 at a time: two neighbours of the depth for 32 columns. AVX-512 only.
#pragma once

#include "linear_tile.h"

#if defined(__AVX512F__)

namespace weft {

// Codes of one pair. `open` a chunk of 16 of the depth, then take its eight steps: values of columns 0 to 7, 8 to 15, ...
// as fp32, lane 2 i the first and lane 2 i + 1 the second neighbour of column i.
template <int Kind, bool Offset> class CodesOfPair {
public:
    static constexpr bool kGrouped = Kind != W_INT8;

    CodesOfPair() = default;
    CodesOfPair(const Weight& w, int pair) : codes_(pair_data(w, pair)), next_(pair_bytes(Kind, w.depth)) {
        int64_t numbers = int64_t(pair) * rounded_up(w.depth, kGroup) * kPair;
        if (kGrouped) scale_ = static_cast<const uint16_t*>(w.scale) + numbers;
        if (Offset) offset_ = static_cast<const uint16_t*>(w.offset) + numbers;
        if (Kind == W_INT4) {
            __m256i table = _mm256_loadu_si256(static_cast<const __m256i*>(w.table));
            table_ = (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(table), 16);
        }
    }

    WEFT_INLINE void open(int chunk) {
        if constexpr (Kind == W_INT4) {
            const char* at = codes_ + int64_t(chunk) * kPair * 8;
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) words_[i] = _mm512_loadu_si512(at + 64 * i);
        } else {
            bytes_ = codes_ + int64_t(chunk) * kPair * 16;
        }
        if constexpr (kGrouped) of_group(scale_ + chunk / 2 * kPair, scales_);
        if constexpr (Offset) of_group(offset_ + chunk / 2 * kPair, offsets_);
    }

    // Fetches the same chunk of the next pair.
    WEFT_INLINE void fetch(int chunk) const {
        constexpr int bytes = kPair * (Kind == W_INT4 ? 8 : 16);
#pragma GCC unroll 8
        for (int i = 0; i < bytes; i += 64) __builtin_prefetch(codes_ + next_ + int64_t(chunk) * bytes + i, 0, 2);
    }

    // Step `j` of the chunk that is open; of W_INT8 without its scale.
    WEFT_INLINE void take(int j, __m512 (&values)[4]) const {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            __m512 x;
            if constexpr (Kind == W_INT4)
                x = _mm512_permutexvar_ps(_mm512_srli_epi32(words_[i], unsigned(4 * j)), table_);
            else
                x = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)(bytes_ + 64 * j + 16 * i))));
            // Codes have 8 bits at most and scales 11: the product is exact, and one rounding is left.
            if constexpr (Offset) x = _mm512_fmadd_ps(x, scales_[i], offsets_[i]);
            else if constexpr (kGrouped) x = _mm512_mul_ps(x, scales_[i]);
            values[i] = x;
        }
    }

private:
    // 32 fp16 numbers as fp32, each in two lanes.
    static WEFT_INLINE void of_group(const uint16_t* numbers, __m512 (&lanes)[4]) {
        const __m512i low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
        const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            __m512 wide = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(numbers + 16 * half)));
            lanes[2 * half] = _mm512_permutexvar_ps(low, wide);
            lanes[2 * half + 1] = _mm512_permutexvar_ps(high, wide);
        }
    }

    const char* codes_ = nullptr;
    int64_t next_ = 0;
    const char* bytes_ = nullptr;
    const uint16_t* scale_ = nullptr;
    const uint16_t* offset_ = nullptr;
    __m512i words_[4];
    __m512 scales_[4], offsets_[4], table_;
};

// Calls f(CodesOfPair of the weight's kind and `pair`).
template <class F> WEFT_INLINE void with_codes(const Weight& w, int pair, F f) {
    if (w.kind == W_INT8) f(CodesOfPair<W_INT8, false>(w, pair));
    else if (w.kind == W_INT8G) f(CodesOfPair<W_INT8G, false>(w, pair));
    else if (w.offset) f(CodesOfPair<W_INT4, true>(w, pair));
    else f(CodesOfPair<W_INT4, false>(w, pair));
}

// Two rows (the first only, unless `both`) of a fp32 panel from a step's values, rounded to bf16 where `Round` says so.
template <bool Round> WEFT_INLINE void lay_step(__m512 (&values)[4], float* panel, bool both) {
    const __m512i low = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(1));
    if constexpr (Round) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            __m512i bits = (__m512i)values[i], last = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
            bits = _mm512_add_epi32(bits, _mm512_add_epi32(last, _mm512_set1_epi32(0x7fff)));
            values[i] = (__m512)_mm512_and_si512(bits, _mm512_set1_epi32(int(0xffff0000)));
        }
    }
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
        float* to = panel + 16 * half;
        _mm512_storeu_ps(to, _mm512_permutex2var_ps(values[2 * half], low, values[2 * half + 1]));
        if (both) _mm512_storeu_ps(to + kPair, _mm512_permutex2var_ps(values[2 * half], high, values[2 * half + 1]));
    }
}

#if defined(__AVX512BF16__)

// The values of a step as two vectors of bf16 pairs, columns 0 to 15 and 16 to 31.
WEFT_INLINE void as_pairs(const __m512 (&values)[4], __m512bh (&pairs)[2]) {
    pairs[0] = _mm512_cvtne2ps_pbh(values[1], values[0]);
    pairs[1] = _mm512_cvtne2ps_pbh(values[3], values[2]);
}

// The same as a row of pairs of a bf16 panel.
template <bool Round> WEFT_INLINE void lay_step(const __m512 (&values)[4], bf16* panel, bool) {
    __m512bh pairs[2];
    as_pairs(values, pairs);
    _mm512_storeu_si512(panel, (__m512i)pairs[0]);
    _mm512_storeu_si512(panel + kPair, (__m512i)pairs[1]);
}

// tiles[pair][row] of a few rows and Pairs neighbouring pairs: numbers go from codes to products in registers. More than
// one pair at a time, because a result is one chain, and one row has only two chains per pair.
template <int MR, int Pairs, class Codes>
WEFT_INLINE void tiles_of_steps(Codes (&codes)[Pairs], Rows<bf16> a, int depth, float* tiles, int pair_stride) {
    Sums<InBf16, MR> sums[Pairs];
#pragma GCC unroll 2
    for (int p = 0; p < Pairs; ++p) take_up<InBf16, MR>(sums[p], tiles, false);
    Pointers<bf16, MR> at(a);
    auto step = [&](int j, auto last) WEFT_LAMBDA_INLINE {
#pragma GCC unroll 2
        for (int p = 0; p < Pairs; ++p) {
            __m512 values[4];
            __m512bh pairs[2];
            codes[p].take(j, values);
            as_pairs(values, pairs);
            one_step<InBf16, MR, decltype(last)::value>(sums[p], at, 2 * j, pairs);
        }
    };
    auto open = [&](int chunk) WEFT_LAMBDA_INLINE {
#pragma GCC unroll 2
        for (int p = 0; p < Pairs; ++p) codes[p].open(chunk);
    };
    int chunk = 0;
    for (; chunk < depth / 16; ++chunk) {
        open(chunk);
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) step(j, std::false_type());
        at.advance(16);
    }
    if (int left = depth % 16) {
        open(chunk);
        for (int j = 0; j < left / 2; ++j) step(j, std::false_type());
        if (left % 2) step(left / 2, std::true_type());
    }
#pragma GCC unroll 2
    for (int p = 0; p < Pairs; ++p) put_down<InBf16, MR>(sums[p], tiles + p * pair_stride);
}

#endif

}  // namespace weft

#endif
