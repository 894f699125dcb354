// Panels of every kind as those that tiles are computed from: codes and shorter numbers, unpacked.
#pragma once

#include "linear_tile.h"

namespace weft {

constexpr int kFewRows = 3, kFewPairs = 2;

// Whether a weight's panels are read as they lie.
template <class C> constexpr bool stored_as(int kind) {
    if (C::kDepth == 2) return kind == W_BF16;
    return kind == (sizeof(typename C::B) == 8 ? W_F64 : W_F32);
}

// Up to how many rows codes are unpacked in registers.
template <class C> constexpr int few_rows(int) { return 0; }

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

// panel[k - from][c][..] for k in [from, from + depth); `from` is a multiple of kGroup. W_INT8 without its scale.
template <class C> inline void unpack(const Weight& w, int pair, int from, int depth, typename C::B* panel) {
    using B = typename C::B;
    if (C::kDepth == 1 && sizeof(B) == 4 && w.kind == W_BF16)
        return halves_to_floats(pair_data(w, pair) + int64_t(from) * kPair * 2, depth, reinterpret_cast<float*>(panel));
    if (depth % C::kDepth) std::memset(panel + int64_t(depth - 1) * kPair, 0, 2 * kPair * sizeof(B));
    for (int k = from; k < from + depth; ++k)
        for (int c = 0; c < kPair; ++c) {
            float value = w.kind == W_INT8 ? float(code_of(W_INT8, pair_data(w, pair), c, k)) : element(w, pair, c, k);
            B& to = panel[int64_t(k - from) / C::kDepth * C::kDepth * kPair + c * C::kDepth + (k - from) % C::kDepth];
            if constexpr (C::kDepth == 2) narrow(value, to);
            else to = B(value);
        }
}

template <class C>
inline int tiles_of_codes(const Weight&, int, int pairs, Rows<typename C::A>, int, typename C::Sum*) {
    return pairs;
}

}  // namespace weft
