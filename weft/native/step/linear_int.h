// Weights whose panels are not read as they lie: unpacked into panels of the type that products are done in, or, for a
// few rows, straight into products. Both give the same bits.
#pragma once

#include "linear_codes.h"
#include "linear_tile.h"

namespace weft {

// Whether a weight's panels are read as they lie.
template <class C> constexpr bool stored_as(int kind) {
    if (C::kDepth == 2) return kind == W_BF16;
    return kind == (sizeof(typename C::B) == 8 ? W_F64 : W_F32);
}

// Pairs of bf16 as two rows of fp32 each.
inline void halves_to_floats(const char* pairs, int depth, float* panel) {
    for (int k = 0; k < depth; k += 2, pairs += kPair * 4, panel += 2 * kPair) {
        uint32_t words[kPair], even[kPair], odd[kPair];
        std::memcpy(words, pairs, sizeof words);
        for (int c = 0; c < kPair; ++c) even[c] = words[c] << 16, odd[c] = words[c] & 0xffff0000u;
        std::memcpy(panel, even, sizeof even);
        if (k + 1 < depth) std::memcpy(panel + kPair, odd, sizeof odd);
    }
}

#if defined(__AVX512F__)

template <class C, class Codes>
inline void lay_panel(const Codes& codes, int from, int depth, typename C::B* panel) {
    codes.each_step(
        from, depth,
        [&](int, __m512(&values)[4], auto last) WEFT_LAMBDA_INLINE {
            lay_step<Codes::kGrouped>(values, panel, !decltype(last)::value);
            panel += 2 * kPair;
        },
        [&](int chunk) WEFT_LAMBDA_INLINE { codes.fetch(chunk); });
}

template <class C> inline void codes_to_panel(const Weight& w, int pair, int from, int depth, typename C::B* panel) {
    with_codes(w, pair, [&](auto codes) { lay_panel<C>(codes, from, depth, panel); });
}

#else

template <class C> inline void codes_to_panel(const Weight& w, int pair, int from, int depth, typename C::B* panel) {
    const char* data = pair_data(w, pair);
    for (int k = from; k < from + depth; ++k, panel += kPair)
        for (int c = 0; c < kPair; ++c)
            panel[c] = w.kind == W_INT8 ? float(code_of(W_INT8, data, c, k)) : group_value(w, pair, c, k);
}

#endif

// panel[k - from][c] for k in [from, from + depth); `from` is a multiple of kGroup. W_INT8 without its scale.
template <class C> inline void unpack(const Weight& w, int pair, int from, int depth, typename C::B* panel) {
    if constexpr (sizeof(typename C::B) < 8) {
        if (w.kind != W_BF16) return codes_to_panel<C>(w, pair, from, depth, panel);
        if constexpr (C::kDepth == 1) halves_to_floats(pair_data(w, pair) + int64_t(from) * kPair * 2, depth, panel);
    }
}

// Rows of the first tile, in which codes go straight into products; 0 where they are unpacked first.
template <class C> constexpr int rows_from_codes(int kind, int64_t rows) {
    if (C::kDepth != 2) return 0;
    if (rows < 4) return int(rows);
    if (rows < 8) return 4;
    // Twelve would need more registers than there are. Eight leave too little to the other tiles of a dozen rows, and no
    // room for the scales and offsets of four bits beside them.
    return rows > 8 && (rows <= kTileRows || kind == W_INT4) ? 4 : 8;
}

#if defined(__AVX512BF16__)

template <int MR, bool Lay>
inline void tile_from_codes(const Weight& w, int pair, Rows<bf16> a, Slab slab, float* tile, bf16* panel, int step) {
    with_codes(w, pair, [&](auto codes) { tile_of_steps<MR, Lay>(codes, a, slab, tile, panel, step); });
}

// The first tile of a pair; its numbers are left in `panel` where `more` rows follow.
inline void first_tile(const Weight& w, int pair, Rows<bf16> a, int rows, Slab slab, float* tile, bf16* panel, bool more) {
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

template <class A, class B, class T>
inline void first_tile(const Weight&, int, Rows<A>, int, Slab, T*, B*, bool) {}

}  // namespace weft
