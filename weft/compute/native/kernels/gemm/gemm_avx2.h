// Products of rows of fp32 with a pair's halves or codes, and panels of its numbers. AVX2 only; where vectors are wider see
// gemm_dequant.h.
#pragma once

#include <utility>

#include "kernels/quant/dequant_avx2.h"
#include "kernels/gemm/gemm_tile.h"

#if defined(WEFT_ONLY_AVX2)

namespace weft {

// Rows of a tile at most; so many or fewer have sums of all columns in the registers, more of half of them.
constexpr int kEightsRows = 6, kWholeEights = 2;
constexpr int eights_beside(int rows) { return rows <= kWholeEights ? kEights : kEights / 2; }

// Rows of a tile at most beside whose sums there are registers for what both neighbours' numbers come from.
template <class Codes> constexpr int kPairedRows = Codes::kPaired ? 4 : kWholeEights;

// MR rows of fp32 times the columns from 8 First on: numbers go from codes to products in registers, in the order of a panel's.
template <int MR, int First, class Codes> void tile_of_eights(const Codes& codes, Rows<float> a, Slab slab, float* tile) {
    constexpr int NV = eights_beside(MR);
    auto in_place = [](Vec<float> x) WEFT_LAMBDA_INLINE { return Codes::kMixed ? mixed(x) : x; };
    Vec<float> sums[MR][NV];
    tile += 8 * First;
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
        for (int i = 0; i < NV; ++i) sums[r][i] = slab.resume ? in_place(load(tile + r * kPair + 8 * i)) : Vec<float>{};
    Pointers<float, MR> at(a);
    auto add = [&](auto of, auto which) WEFT_LAMBDA_INLINE {
        __m256 numbers[NV];
#pragma GCC unroll 4
        for (int i = 0; i < NV; ++i) numbers[i] = of(First + i, which);
#pragma GCC unroll 16
        for (int r = 0; r < MR; ++r) {
            const Vec<float> one = splat(at.row(r)[which.value]);
#pragma GCC unroll 4
            for (int i = 0; i < NV; ++i) sums[r][i] = fused(one, (Vec<float>)numbers[i], sums[r][i]);
        }
    };
    codes.template each_step<(MR > kPairedRows<Codes>)>(
        slab.from, slab.depth,
        [&](auto of) WEFT_LAMBDA_INLINE {
            add(of, kFirst), add(of, kSecond);
            at.advance(2);
        },
        [&](auto of) WEFT_LAMBDA_INLINE { add(of, kFirst); });
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 4
        for (int i = 0; i < NV; ++i) store(tile + r * kPair + 8 * i, in_place(sums[r][i]));
}

// Of `rows` rows, `Least` at least.
template <int Least, int First, class Codes, size_t... R>
inline void tile_of_eights(int rows, const Codes& codes, Rows<float> a, Slab slab, float* tile, std::index_sequence<R...>) {
    constexpr void (*tiles[])(const Codes&, Rows<float>, Slab, float*) = {tile_of_eights<Least + int(R), First, Codes>...};
    tiles[rows - Least](codes, a, slab, tile);
}

// At most kEightsRows rows times all columns, or the `second` half of them, where they do not go together.
template <class Codes>
inline void half_of_eights(int rows, const Codes& codes, Rows<float> a, Slab slab, float* tile, bool second) {
    constexpr auto all = std::make_index_sequence<kEightsRows>();
    constexpr auto halved = std::make_index_sequence<kEightsRows - kWholeEights>();
    if (!second) tile_of_eights<1, 0>(rows, codes, a, slab, tile, all);
    else if (rows > kWholeEights) tile_of_eights<kWholeEights + 1, kEights / 2>(rows, codes, a, slab, tile, halved);
}

// panel = the numbers of the depth [from, from + depth).
template <class Codes> inline void lay_eights(const Codes& codes, int from, int depth, float* panel) {
    codes.template each_step<false>(
        from, depth,
        [&](auto of) WEFT_LAMBDA_INLINE {
#pragma GCC unroll 4
            for (int i = 0; i < kEights; ++i) {  // both before either is stored: for a compiler a panel may lie where codes do
                const __m256 first = of(i, kFirst), second = of(i, kSecond);
                _mm256_storeu_ps(panel + 8 * i, first), _mm256_storeu_ps(panel + kPair + 8 * i, second);
            }
            panel += 2 * kPair;
        },
        [&](auto of) WEFT_LAMBDA_INLINE {
            for (int i = 0; i < kEights; ++i) _mm256_storeu_ps(panel + 8 * i, of(i, kFirst));
        });
}

}  // namespace weft

#endif
