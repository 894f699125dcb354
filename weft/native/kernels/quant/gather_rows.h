// Rows of a packed weight, of any kind.
#pragma once

#include "kernels/quant/lossless_bf16.h"
#include "kernels/quant/weight.h"

namespace weft {

// out[0 .. depth) = row `row` of the matrix.
template <class T> inline void gather_row(const Weight& w, int64_t row, T* out) {
    int column = packed_column(int(row), w.columns, w.interleaved), pair = column / kPair, lane = column % kPair;
    auto plain = [&](const auto* numbers) {
        for (int k = 0; k < w.depth; ++k) out[k] = T(numbers[int64_t(k) * kPair + lane]);
    };
    if (w.kind == W_F64) return plain(reinterpret_cast<const double*>(pair_data(w, pair)));
    if (w.kind == W_F32) return plain(reinterpret_cast<const float*>(pair_data(w, pair)));
    if (w.kind == W_BF16) {
        const bf16* data = reinterpret_cast<const bf16*>(pair_data(w, pair));
        for (int k = 0; k < w.depth; ++k) out[k] = T(widen(data[pair_word(k / 2, lane) * 2 + k % 2]));
        return;
    }
    if (w.kind == W_INT8) {
        const float scale = static_cast<const float*>(w.scale)[pair * kPair + lane];
        const auto* words = reinterpret_cast<const uint32_t*>(pair_data(w, pair)) + lane * 2;
        for (int k = 0; k < w.depth; k += 8, words += 64)
            for (int i = 0; i < std::min(8, w.depth - k); ++i) out[k + i] = T(float(int8_t(words[i % 2] >> i / 2 * 8)) * scale);
        return;
    }
    if (w.kind == W_BF12) {
        for (int k = 0; k < w.depth; k += kGroup) {
            const GroupOfPair group(w, pair, k);
            for (int i = 0; i < std::min(kGroup, w.depth - k); ++i) out[k + i] = T(widen(group.at(lane, i)));
        }
        return;
    }
    for (int k = 0; k < w.depth; ++k) out[k] = T(group_value(w, pair, lane, k));
}

}  // namespace weft
