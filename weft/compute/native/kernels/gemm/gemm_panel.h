// Weights whose panels are not read as they lie: unpacked into panels of the type that products are done in, or, for a
// few rows, straight into products. Both give the same bits.
#pragma once

#include "kernels/gemm/gemm_amx.h"
#include "kernels/gemm/gemm_avx2.h"
#include "kernels/gemm/gemm_dequant.h"
#include "kernels/gemm/gemm_tile.h"
#include "kernels/quant/unpack.h"

namespace weft {

// Whether a weight's panels are read as they lie.
template <class C> constexpr bool stored_as(int kind) {
    if (C::kDepth == 2) return kind == W_BF16;
    return kind == (sizeof(typename C::B) == 8 ? W_F64 : W_F32);
}

// Group by group, of a kind without a kernel of its own.
template <class C, int Kind> inline void groups_to_panel(const Weight& w, int pair, int from, int depth, typename C::B* panel) {
    for (int k = 0; k < depth; k += kGroup) {
        const GroupOf<Kind> group(w, pair, from + k);
        const int count = std::min(kGroup, depth - k);
        if constexpr (C::kDepth == 1) {
            for (int i = 0; i < count; ++i)
                for (int c = 0; c < kPair; ++c) panel[int64_t(k + i) * kPair + c] = group.at(c, i);
        } else {
            for (int i = 0; i < ceil_div(count, 2) * 2; ++i)
                for (int c = 0; c < kPair; ++c)
                    narrow(i < count ? group.at(c, i) : 0.0f, panel[pair_word((k + i) / 2, c) * 2 + i % 2]);
        }
    }
}

template <class C> inline void codes_to_panel(const Weight& w, int pair, int from, int depth, typename C::B* panel) {
#if defined(__AVX512F__)
    if constexpr (!C::kLaysCodes)
        if (dots(w.kind))
            return with_codes<C::kDepth == 1>(w, pair, [&](auto codes) { lay_panel<C>(codes, from, depth, panel); });
#elif defined(WEFT_ONLY_AVX2)
    if (dots(w.kind))
        return with_floats<false>(w, pair, true, [&](const auto& codes) { lay_eights(codes, from, depth, panel); });
#endif
    with_kind(w.kind, [&](auto kind) {
        constexpr int Kind = decltype(kind)::value;
        if constexpr (!has_dot<Kind>) groups_to_panel<C, Kind>(w, pair, from, depth, panel);
    });
}

#if defined(WEFT_ONLY_AVX2)
inline void halves_to_panel(const Weight& w, int pair, int from, int depth, float* panel) {
    lay_eights(FloatsOfHalves(w, pair, true), from, depth, panel);
}
#else
// Pairs of bf16 as two rows of fp32 each.
inline void halves_to_panel(const Weight& w, int pair, int from, int depth, float* panel) {
    const char* const pairs = pair_data(w, pair) + int64_t(from) * kPair * 2;
    for (int k = 0; k < depth; k += 2, panel += 2 * kPair)
        for (int c = 0; c < kPair; c += kWidth<float>) {
            const auto both = (VecInt<float>)load(reinterpret_cast<const float*>(pairs + pair_word(k / 2, c) * 4));
            store(panel + c, (Vec<float>)(both << 16));
            if (k + 1 < depth) store(panel + kPair + c, (Vec<float>)(both & int32_t(0xffff0000)));
        }
}
#endif

// panel[k - from][c] for k in [from, from + depth); `from` is a multiple of kGroup. W_INT8 without its scale.
template <class C> inline void unpack(const Weight& w, int pair, int from, int depth, typename C::B* panel) {
    if constexpr (sizeof(typename C::B) < 8) {
        if (w.kind != W_BF16) return codes_to_panel<C>(w, pair, from, depth, panel);
        if constexpr (C::kDepth == 1) halves_to_panel(w, pair, from, depth, panel);
    }
}

// Rows of a register tile whose FMAs split bf16 pairs in registers, on CPUs without a bf16 dot product.
constexpr int kApartTile = kTogether > 1 ? 0 : kVectorBytes == 64 ? 12 : kVectorBytes == 32 ? 6 : 1;
// So many rows do so, tile by tile: taking apart is cheap beside twelve, laying a panel is not beside six.
constexpr int kApartRows = kVectorBytes == 64 ? 3 * kApartTile : kApartTile;

// The same of codes; those of W_BF16_12BIT are nearly as cheap as halves.
#if defined(__AVX512F__)
constexpr int kCodedRows = 8, kBf16In12BitsTile = kTileRows, kBf16In12BitsRows = 3 * kBf16In12BitsTile;
#elif defined(__AVX2__)
constexpr int kCodedRows = 6, kBf16In12BitsTile = 4, kBf16In12BitsRows = kBf16In12BitsTile;
#else
constexpr int kCodedRows = 0, kBf16In12BitsTile = 0, kBf16In12BitsRows = 0;
#endif

// Calls one(rows, a, tile) for near-equal tiles of at most `most` rows.
template <class A, class F> inline void in_even_tiles(int rows, int most, Rows<A> a, float* tile, F one) {
    for (int tiles = ceil_div(rows, most), n; tiles; --tiles, rows -= n, a.first += n * a.stride, tile += n * kPair) {
        n = even_rows(rows, tiles);
        one(n, a, tile);
    }
}

// Rows of the first tile, or tiles, in which codes, or halves, go straight into products, or are laid beside them; 0 where they
// are unpacked first.
template <class C> inline int rows_from_codes(int kind, int64_t rows) {
    if (sizeof(typename C::B) == 4 && kind != W_F32) {
        if (kind != W_BF16 && !dots(kind)) return 0;
        const int most = kind == W_BF16 ? kApartRows : kind == W_BF16_12BIT ? kBf16In12BitsRows : kCodedRows;
        return rows <= most ? int(rows) : 0;
    }
    if (kind != W_BF16 && !dots(kind)) return 0;
    if (C::kLaysCodes) return int(std::min<int64_t>(rows, C::kRows));
    if (C::kDepth != 2) return 0;
    if (rows < 4 || (kind == W_BF16_12BIT && rows <= kTileRows)) return int(rows);
    if (rows < 8) return 4;
    // Twelve would need more registers than there are. Eight leave too little to the other tiles of a dozen rows, and no
    // room for the scales and offsets of four bits beside them.
    return rows > 8 && (rows <= kTileRows || kind == W_INT4) ? 4 : 8;
}

#if defined(__AVX512BF16__)

template <int MR, bool Lay>
inline void tile_from_codes(const Weight& w, int pair, Rows<bf16> a, Slab slab, float* tile, bf16* panel, int step) {
    with_codes<false>(w, pair, [&](auto codes) {
        tile_of_steps<MR, Lay>(codes, a, slab, tile, panel, step, FetchChunks<decltype(codes)>{codes});
    });
}

constexpr int kSteppedRows = 3;  // few, whose products wait for memory

static_assert(InBf16::kRows == kTileRows, "of W_BF16_12BIT, so many rows all take their numbers from codes");

// A tile of rows times a pair of W_BF16_12BIT, all of the depth.
template <int MR> void tile_of_bf16_12bit(const CodesOfPair<W_BF16_12BIT, false>& codes, Rows<bf16> a, int depth, float* tile) {
    using Codes = CodesOfPair<W_BF16_12BIT, false>;
    using Fetch = std::conditional_t<(MR <= kSteppedRows), FetchSteps<Codes>, FetchChunks<Codes>>;
    tile_of_steps<MR, false>(codes, a, {0, depth, false}, tile, nullptr, 0, Fetch{codes});
}

template <size_t... R>
inline void tile_of_bf16_12bit(int rows, const Weight& w, int pair, Rows<bf16> a, float* tile, std::index_sequence<R...>) {
    constexpr void (*tiles[])(const CodesOfPair<W_BF16_12BIT, false>&, Rows<bf16>, int,
                              float*) = {tile_of_bf16_12bit<int(R) + 1>...};
    tiles[rows - 1](CodesOfPair<W_BF16_12BIT, false>(w, pair), a, w.depth, tile);
}

// The first tile of a pair; its numbers are left in `panel` where `more` rows follow.
inline void first_tile(const Weight& w, int pair, Rows<bf16> a, int rows, Slab slab, float* tile, bf16* panel, bool more) {
    if (w.kind == W_BF16_12BIT && !more)
        return tile_of_bf16_12bit(rows, w, pair, a, tile, std::make_index_sequence<kTileRows>());
    int step = more ? 2 * kPair : 0;
    switch (rows) {
        case 1: return tile_from_codes<1, false>(w, pair, a, slab, tile, panel, 0);
        case 2: return tile_from_codes<2, false>(w, pair, a, slab, tile, panel, 0);
        case 3: return tile_from_codes<3, false>(w, pair, a, slab, tile, panel, 0);
        case 4: return tile_from_codes<4, true>(w, pair, a, slab, tile, panel, step);
        default: return tile_from_codes<8, true>(w, pair, a, slab, tile, panel, step);
    }
}

#endif

#if defined(__AVX512F__)
template <class Codes, size_t... R>
inline void tile_of_floats(int rows, const Codes& codes, Rows<float> a, Slab slab, float* tile, std::index_sequence<R...>) {
    constexpr void (*tiles[])(const Codes&, Rows<float>, Slab, float*) = {tile_of_floats<int(R) + 1, Codes>...};
    tiles[rows - 1](codes, a, slab, tile);
}
#endif

#if defined(WEFT_ONLY_AVX2)

static_assert(std::max({kApartRows, kCodedRows, kBf16In12BitsRows}) <= kEightsRows);

// Both halves of the columns, of which the first one asks for what is soon taken.
inline void first_tile(const Weight& w, int pair, Rows<float> a, int rows, Slab slab, float* tile, float*, bool) {
    for (const bool second : {false, true})
        with_floats<true>(w, pair, !second, [&](const auto& codes) { half_of_eights(rows, codes, a, slab, tile, second); });
}

#else

// The tile of MR rows of fp32 times a pair of panels of bf16: a product after the other, as those of an unpacked panel.
template <int MR> void tile_of_halves(const char* pairs, Rows<float> a, Slab slab, float* tile) {
    constexpr int kVectors = kPair / kWidth<float>;
    Vec<float> sums[MR][kVectors];
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sums[r][v] = slab.resume ? load(tile + r * kPair + v * kWidth<float>) : Vec<float>{};
    Pointers<float, MR> at(a);
    const auto* words = reinterpret_cast<const float*>(pairs) + int64_t(slab.from / 2) * kPair;
    auto add = [&](const Vec<float>(&b)[kVectors], int which) WEFT_LAMBDA_INLINE {
#pragma GCC unroll 16
        for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
            for (int v = 0; v < kVectors; ++v) sums[r][v] = fused(splat(at.row(r)[which]), b[v], sums[r][v]);
    };
    for (int k = 0; k < slab.depth; k += 2, words += kPair, at.advance(2)) {
        Vec<float> even[kVectors], odd[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
            const auto both = (VecInt<float>)load(words + v * kWidth<float>);
            even[v] = (Vec<float>)(both << 16), odd[v] = (Vec<float>)(both & int32_t(0xffff0000));
        }
        for (int line = 0; line < kPair * 4; line += 64)
            __builtin_prefetch(reinterpret_cast<const char*>(words) + kSoon + line, 0, 2);
        add(even, 0);
        if (k + 1 < slab.depth) add(odd, 1);
    }
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) store(tile + r * kPair + v * kWidth<float>, sums[r][v]);
}

template <size_t... R>
inline void tile_of_halves(int rows, const char* pairs, Rows<float> a, Slab slab, float* tile, std::index_sequence<R...>) {
    constexpr void (*tiles[])(const char*, Rows<float>, Slab, float*) = {tile_of_halves<int(R) + 1>...};
    tiles[rows - 1](pairs, a, slab, tile);
}

inline void tiles_of_halves(int rows, const char* pairs, Rows<float> a, Slab slab, float* tile) {
    if constexpr (kApartTile > 0)
        in_even_tiles(rows, kApartTile, a, tile, [&](int n, Rows<float> from, float* to) {
            tile_of_halves(n, pairs, from, slab, to, std::make_index_sequence<kApartTile>());
        });
}

inline void first_tile(const Weight& w, int pair, Rows<float> a, int rows, Slab slab, float* tile, float*, bool) {
    if (w.kind == W_BF16) return tiles_of_halves(rows, pair_data(w, pair), a, slab, tile);
#if defined(__AVX512F__)
    with_codes<true>(w, pair, [&](auto codes) {
        constexpr int most = std::is_same_v<decltype(codes), CodesOfPair<W_BF16_12BIT, true>> ? kBf16In12BitsTile : kCodedRows;
        in_even_tiles(rows, most, a, tile, [&](int n, Rows<float> from, float* to) {
            tile_of_floats(n, codes, from, slab, to, std::make_index_sequence<most>());
        });
    });
#endif
}

#endif

template <class A, class B, class T> inline void first_tile(const Weight&, int, Rows<A>, int, Slab, T*, B*, bool) {}

}  // namespace weft
