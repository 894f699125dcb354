// Products with codes of a pair: a few rows take numbers straight from codes, more rows, and tile registers, a panel
// that they are laid in. AVX-512 only.
#pragma once

#include "kernels/quant/dequant_lut_amx.h"
#include "kernels/quant/dequant_lossless_bf16.h"
#include "kernels/quant/dequant_avx512.h"

#if defined(__AVX512F__)

namespace weft {

// Calls f(CodesOfPair of the weight's kind and `pair`, or CodesByColumn).
template <bool Apart, class F> WEFT_INLINE void with_codes(const Weight& w, int pair, F f) {
    if (w.kind == W_BF16_12BIT) f(CodesOfPair<W_BF16_12BIT, Apart>(w, pair));
    else if (w.kind == W_INT8) f(CodesOfPair<W_INT8, Apart>(w, pair));
    else if (w.kind == W_INT8G) f(CodesOfPair<W_INT8G, Apart>(w, pair));
#if defined(__AMX_BF16__)
    else if (by_columns(w)) f(CodesByColumn(w, pair));
#endif
    else f(CodesOfPair<W_INT4, Apart>(w, pair));
}

// Asks for codes that are soon taken, a chunk's all at once.
template <class Codes> struct FetchChunks {
    const Codes& codes;

    WEFT_INLINE void begin(int chunk) const {
        const char* at = codes.soon(chunk);
#pragma GCC unroll 12
        for (int i = 0; i < Codes::kChunkBytes; i += 64) __builtin_prefetch(at + i, 0, 2);
    }
    WEFT_INLINE void step(int) const {}
};

// The same, a line or two with each step, so that they come as evenly as they are taken.
template <class Codes> struct FetchSteps {
    const Codes& codes;
    const char* at = nullptr;

    WEFT_INLINE void begin(int chunk) { at = codes.soon(chunk); }
    WEFT_INLINE void step(int j) const {
        constexpr int kLines = Codes::kChunkBytes / 64;
#pragma GCC unroll 2
        for (int i = kLines * j / Codes::kSteps; i < kLines * (j + 1) / Codes::kSteps; ++i)
            __builtin_prefetch(at + 64 * i, 0, 2);
    }
};

// A step's values that were taken apart, rounded to bf16 where `Round` says so: of first neighbours, of second ones.
template <bool Round> WEFT_INLINE void as_floats(const __m512 (&values)[4], Vec<float> (&first)[2], Vec<float> (&second)[2]) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
        first[half] = Round ? near_bf16((Vec<float>)values[half]) : (Vec<float>)values[half];
        second[half] = Round ? near_bf16((Vec<float>)values[2 + half]) : (Vec<float>)values[2 + half];
    }
}

// The same of pairs of bf16.
template <bool> WEFT_INLINE void as_floats(const __m512i (&values)[2], Vec<float> (&first)[2], Vec<float> (&second)[2]) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
        first[half] = (Vec<float>)_mm512_slli_epi32(values[half], 16);
        second[half] = (Vec<float>)_mm512_and_si512(values[half], _mm512_set1_epi32(int(0xffff0000)));
    }
}

// Two rows (the first only, unless `both`) of a fp32 panel from a step's values.
template <bool Round, class Values> WEFT_INLINE void lay_step(const Values& values, float* panel, bool both) {
    Vec<float> first[2], second[2];
    as_floats<Round>(values, first, second);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
        store(panel + 16 * half, first[half]);
        if (both) store(panel + kPair + 16 * half, second[half]);
    }
}

// The tile of MR rows of fp32: numbers go from codes to products in registers, in the order of a panel's.
template <int MR, class Codes> WEFT_INLINE void tile_of_floats(const Codes& codes, Rows<float> a, Slab slab, float* tile) {
    Sums<InF32, MR> sums;
    take_up<InF32, MR>(sums, tile, slab.resume);
    Pointers<float, MR> at(a);
    at.advance(-Codes::kChunk);
    codes.each_step(
        slab.from, slab.depth,
        [&](int j, auto& values, auto last) WEFT_LAMBDA_INLINE {
            Vec<float> first[2], second[2];
            as_floats<Codes::kGrouped>(values, first, second);
            one_step<InF32, MR, false>(sums, at, 2 * j, first);
            if (!decltype(last)::value) one_step<InF32, MR, false>(sums, at, 2 * j + 1, second);
        },
        [&](int chunk) WEFT_LAMBDA_INLINE {
            FetchChunks<Codes>{codes}.begin(chunk);
            at.advance(Codes::kChunk);
        });
    put_down<InF32, MR>(sums, tile);
}

#if defined(__AVX512BF16__)

// The values of a step as two vectors of bf16 pairs, columns 0 to 15 and 16 to 31.
WEFT_INLINE void as_pairs(const __m512 (&values)[4], __m512bh (&pairs)[2]) {
    pairs[0] = _mm512_cvtne2ps_pbh(values[1], values[0]);
    pairs[1] = _mm512_cvtne2ps_pbh(values[3], values[2]);
}

WEFT_INLINE void as_pairs(const __m512i (&values)[2], __m512bh (&pairs)[2]) {
    pairs[0] = (__m512bh)values[0], pairs[1] = (__m512bh)values[1];
}

// The same as a step of a bf16 panel, whose groups lie as those of W_BF16.
template <bool, class Values> WEFT_INLINE void lay_step(const Values& values, bf16* panel, bool) {
    __m512bh pairs[2];
    as_pairs(values, pairs);
    _mm512_storeu_si512(panel, (__m512i)pairs[0]);
    _mm512_storeu_si512(panel + 2 * pair_word(0, 16), (__m512i)pairs[1]);
}

// The tile of MR rows: numbers go from codes to products in registers. With Lay, they are left in `panel` for the rows
// that follow, `panel_step` apart (0: there are none). fetch.begin(chunk) as each chunk begins, fetch.step(j) with each step.
template <int MR, bool Lay, class Codes, class Fetch>
WEFT_INLINE void tile_of_steps(const Codes& codes, Rows<bf16> a, Slab slab, float* tile, bf16* panel, int panel_step,
                               Fetch fetch) {
    Sums<InBf16, MR> sums;
    take_up<InBf16, MR>(sums, tile, slab.resume);
    Pointers<bf16, MR> at(a);
    at.advance(-Codes::kChunk);
    codes.each_step(
        slab.from, slab.depth,
        [&](int j, const auto& values, auto last) WEFT_LAMBDA_INLINE {
            __m512bh pairs[2];
            as_pairs(values, pairs);
            fetch.step(j);
            one_step<InBf16, MR, decltype(last)::value>(sums, at, 2 * j, pairs);
            if (Lay) {
                _mm512_storeu_si512(panel, (__m512i)pairs[0]);
                _mm512_storeu_si512(panel + kPair, (__m512i)pairs[1]);
                panel += panel_step;
            }
        },
        [&](int chunk) WEFT_LAMBDA_INLINE {
            fetch.begin(chunk);
            at.advance(Codes::kChunk);
        });
    put_down<InBf16, MR>(sums, tile);
}

#endif

// panel = the numbers of the depth [from, from + depth); a single group for a bf16 panel whose groups lie apart.
template <class C, class Codes> inline void lay_panel(const Codes& codes, int from, int depth, typename C::B* panel) {
    constexpr int kNext = C::kDepth == 2 ? 2 * pair_word(1, 0) : 2 * kPair;  // from step to step
    codes.each_step(
        from, depth,
        [&](int, auto& values, auto last) WEFT_LAMBDA_INLINE {
            lay_step<Codes::kGrouped>(values, panel, !decltype(last)::value);
            panel += kNext;
        },
        [&](int chunk) WEFT_LAMBDA_INLINE { FetchChunks<Codes>{codes}.begin(chunk); });
}

}  // namespace weft

#endif
