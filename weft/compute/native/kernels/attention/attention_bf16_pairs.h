// The inner loop of attention over pairs of bf16: rows' pairs, times vectors of tokens (keys: pairs of dims) or of dims
// (values: pairs of tokens).
//
// Where the CPU has products of bf16 pairs, rows keep them as they are. Elsewhere numbers are widened to fp32: those of
// rows once, when they are made ready, those of keys and values as they are read.
#pragma once

#include <string.h>

#include "kernels/common/row_pointers.h"
#include "kernels/common/simd.h"

namespace weft {

constexpr int kLanes = kWidth<float>;

#if defined(__AVX512BF16__)

#if defined(__AMX_BF16__)
constexpr int kAttentionRows = 16;
#else
constexpr int kAttentionRows = 12;
#endif
constexpr int panels_beside(int rows) { return rows <= 6 ? 4 : rows <= 12 ? 2 : 1; }

using BfPair = __m512bh;
using RowPair = uint32_t;  // a pair of a row's numbers
WEFT_INLINE BfPair pair_of(RowPair x) { return (__m512bh)_mm512_set1_epi32(int(x)); }
WEFT_INLINE BfPair pair_at(const uint32_t* p) { return (__m512bh)_mm512_loadu_si512(p); }
WEFT_INLINE void add_product(Vec<float>& sum, BfPair a, BfPair b) { sum = (Vec<float>)_mm512_dpbf16_ps((__m512)sum, a, b); }

using RowNumber = bf16;  // half of it

#else

#if defined(__AVX512F__)
constexpr int kAttentionRows = 12;
constexpr int panels_beside(int rows) { return rows <= 4 ? 4 : 2; }
#elif defined(WEFT_ONLY_AVX2)
constexpr int kAttentionRows = 6;
constexpr int panels_beside(int rows) { return rows <= 3 ? 4 : 2; }
#else
constexpr int kAttentionRows = 4;
constexpr int panels_beside(int rows) { return rows == 1 ? 4 : 2; }
#endif

struct BfPair {
    Vec<float> even, odd;
};
struct RowPair {
    float even, odd;
};
using RowNumber = float;
WEFT_INLINE BfPair widened(VecInt<float> both) { return {(Vec<float>)(both << 16), (Vec<float>)(both & int32_t(0xffff0000))}; }
WEFT_INLINE BfPair pair_of(const RowPair& x) { return {splat(x.even), splat(x.odd)}; }
WEFT_INLINE BfPair pair_at(const uint32_t* p) { return widened((VecInt<float>)load(reinterpret_cast<const float*>(p))); }
WEFT_INLINE void add_product(Vec<float>& sum, BfPair a, BfPair b) { sum = fused(a.odd, b.odd, fused(a.even, b.even, sum)); }
#endif

// Many rows take long over keys and values that lie in the second-level cache: what they read next is fetched from there.
// Few rows read them once, from memory: what is read after this chunk is fetched.
constexpr bool fetches_near(int rows) { return rows > 4; }

constexpr bool kWidensRows = sizeof(RowNumber) > sizeof(bf16);

// Where registers are few, of a pair's numbers the first ones meet all rows before the second ones are widened.
constexpr bool kOneByOne = kWidensRows && kVectorBytes == 32;

// Numbers of a row, rounded to bf16.
WEFT_INLINE void put_numbers(RowNumber* to, Vec<float> x) {
    if constexpr (kWidensRows) store(to, rounded_to_bf16(x));
    else store_narrow(to, x);
}

WEFT_INLINE void put_numbers(RowNumber* to, Vec<float> x, Vec<float> y) {
#if defined(__AVX512BF16__)
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh((__m512)y, (__m512)x));
#else
    put_numbers(to, x), put_numbers(to + kLanes, y);
#endif
}

// Converts `count` values of a row to the GEMM's input type; may write past them, up to a whole vector.
WEFT_INLINE void put_row(const bf16* from, int count, RowNumber* to) {
    if constexpr (kWidensRows) each_vector<float>(count, [&](int i, int left) { store(to + i, take<float>(from + i, left)); });
    else memcpy(to, from, size_t(count) * sizeof(bf16));
}

// The first `count` 32-bit pairs at p, then zeros; reads nothing past them.
WEFT_INLINE BfPair pair_part(const uint32_t* p, int count) {
    if (count >= kLanes) return pair_at(p);
#if defined(__AVX512BF16__)
    return (__m512bh)_mm512_maskz_loadu_epi32(__mmask16((1u << count) - 1), p);
#else
    uint32_t whole[kLanes] = {};
    for (int i = 0; i < count; ++i) whole[i] = p[i];
    return pair_at(whole);
#endif
}

// Of so many rows a compiler that may choose where sums lie puts some of them down in memory.
constexpr bool holds_sums(int rows) { return rows > 4; }

// sum += one * number; `Held`: in the register where the sum lies.
template <bool Held> WEFT_INLINE void add_number(Vec<float>& sum, Vec<float> one, Vec<float> number) {
#if defined(WEFT_ONLY_AVX2)
    if (Held) asm volatile("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(one), "x"(number));
    else
#endif
        sum = fused(one, number, sum);
}

// sums[r][j] += a[r]'s even, or odd, number times panel j's.
template <bool Odd, int MR, int NV>
WEFT_INLINE void add_numbers(const Pointers<RowPair, MR>& rows, const uint32_t* const (&at)[NV], Vec<float> (&sums)[MR][NV]) {
    Vec<float> numbers[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) {
        const uint32_t* own = Odd ? read_anew(at[j]) : at[j];
        const auto both = (VecInt<float>)load(reinterpret_cast<const float*>(own));
        numbers[j] = (Vec<float>)(Odd ? both & int32_t(0xffff0000) : both << 16);
    }
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
        const Vec<float> one = splat(Odd ? rows.row(r)->odd : rows.row(r)->even);
#pragma GCC unroll 8
        for (int j = 0; j < NV; ++j) add_number<holds_sums(MR)>(sums[r][j], one, numbers[j]);
    }
}

// sums[r][j] += a[r] . b[j] over `count` pairs, of which k of panel j lies at b[j] + k * stride; `ahead`: what will be read
// later in the same way. Last: the last panel has `lanes` columns.
template <int MR, int NV, bool Last>
WEFT_INLINE void multiply(Rows<RowPair> a, const uint32_t* const* b, const uint32_t* const* ahead, int64_t stride, int count,
                          int lanes, Vec<float> (&sums)[MR][NV]) {
    Pointers<RowPair, MR> rows(a);
    const uint32_t* at[NV];
    int64_t further[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) at[j] = b[j], further[j] = ahead[j] - b[j];
    for (int k = 0; k < count; ++k) {
        if constexpr (kOneByOne && !Last) {
            add_numbers<false, MR, NV>(rows, at, sums), add_numbers<true, MR, NV>(rows, at, sums);
#pragma GCC unroll 8
            for (int j = 0; j < NV; ++j) {
                __builtin_prefetch(at[j] + further[j], 0, fetches_near(MR) ? 3 : 2);
                at[j] += stride;
            }
            rows.advance(1);
            continue;
        }
        BfPair panel[NV];
#pragma GCC unroll 8
        for (int j = 0; j < NV; ++j) {
            panel[j] = Last && j == NV - 1 ? pair_part(at[j], lanes) : pair_at(at[j]);
            __builtin_prefetch(at[j] + further[j], 0, fetches_near(MR) ? 3 : 2);
            at[j] += stride;
        }
#pragma GCC unroll 16
        for (int r = 0; r < MR; ++r) {
            const BfPair one = pair_of(*rows.row(r));
#pragma GCC unroll 8
            for (int j = 0; j < NV; ++j) add_product(sums[r][j], one, panel[j]);
        }
        rows.advance(1);
    }
}

}  // namespace weft
