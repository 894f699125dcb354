// Weights whose panels are not read as they lie: unpacked into panels of the type that products are done in, or, for a
// few rows, straight into products. Both give the same bits.
#pragma once

#include "linear_codes.h"
#include "linear_tile.h"

namespace weft {

constexpr int kFewRows = 3, kFewPairs = 2;

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

template <class C, class Codes> inline void lay_panel(Codes codes, int from, int depth, typename C::B* panel) {
    auto lay = [&](int j, bool both) WEFT_LAMBDA_INLINE {
        __m512 values[4];
        codes.take(j, values);
        lay_step<Codes::kGrouped>(values, panel + 2 * j * kPair, both);
    };
    int chunk = from / 16;
    for (; depth >= 16; depth -= 16, panel += 16 * kPair) {
        codes.open(chunk);
        codes.fetch(chunk++);
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) lay(j, true);
    }
    if (!depth) return;
    codes.open(chunk);
    for (int j = 0; j < depth / 2; ++j) lay(j, true);
    if (depth % 2) lay(depth / 2, false);
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

// Up to how many rows codes are not unpacked into panels.
template <class C> constexpr int few_rows() { return C::kDepth == 2 ? kFewRows : 0; }

#if defined(__AVX512BF16__)

template <int MR, int Pairs>
inline void tiles_of_some(const Weight& w, int pair, Rows<bf16> a, float* tiles) {
    with_codes(w, pair, [&](auto first) {
        decltype(first) codes[Pairs];
        codes[0] = first;
        if constexpr (Pairs > 1) codes[1] = decltype(first)(w, pair + 1);
        tiles_of_steps<MR, Pairs>(codes, a, w.depth, tiles, kFewRows * kPair);
    });
}

// tiles[pair][row][column] of at most kFewRows rows and `pairs` (1 or 2) pairs.
inline void tiles_of_codes(const Weight& w, int pair, int pairs, Rows<bf16> a, int rows, float* tiles) {
    if (pairs == 2) {
        if (rows == 1) tiles_of_some<1, 2>(w, pair, a, tiles);
        else if (rows == 2) tiles_of_some<2, 2>(w, pair, a, tiles);
        else tiles_of_some<3, 2>(w, pair, a, tiles);
    } else {
        if (rows == 1) tiles_of_some<1, 1>(w, pair, a, tiles);
        else if (rows == 2) tiles_of_some<2, 1>(w, pair, a, tiles);
        else tiles_of_some<3, 1>(w, pair, a, tiles);
    }
}

#endif

template <class A, class T> inline void tiles_of_codes(const Weight&, int, int, Rows<A>, int, T*) {}

}  // namespace weft
