// What the values of a weight stand for, one trait for each kind that is not stored as its numbers. Products without a
// kernel for the kind, and copies of rows, need no more than GroupOf<Kind>.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/quant/lossless_bf16.h"
#include "kernels/quant/weight.h"

namespace weft {

// 32 neighbours of the depth of a pair of panels, from `k` on, a multiple of kGroup. Scales are read for columns
// [first, first + count) only. at(column, i): the number of depth k + i; of W_INT8 without the scale of its column.
template <int Kind> class GroupOf {
public:
    GroupOf(const Weight& w, int pair, int k, int first = 0, int count = kPair)
        : words_(reinterpret_cast<const uint32_t*>(pair_data(w, pair)) + int64_t(k / kChunk) * 2 * kPair),
          columns_(by_columns(w) ? reinterpret_cast<const uint16_t*>(pair_data(w, pair)) + column_word(0, k) : nullptr) {
        for (int value = 0; Kind == W_INT4 && value < 16; ++value)
            numbers_[value] = widen(static_cast<const bf16*>(w.table)[value]);
        for (int c = first; grouped(Kind) && c < first + count; ++c) {
            const GroupNumber group(w, pair, c, k);
            scale_[c] = group.scale, offset_[c] = group.offset;
        }
    }

    float at(int column, int i) const {
        const float x = Kind == W_INT4 ? numbers_[value(column, i) & 15] : float(int8_t(value(column, i)));
        return grouped(Kind) ? rounded_to_bf16(x * scale_[column] + offset_[column]) : x;
    }

private:
    static constexpr int kChunk = chunk_of(Kind), kBits = 64 / kChunk;

    // In the lowest bits.
    uint32_t value(int column, int i) const {
        if (kTakesColumns && columns_) return uint32_t(columns_[column_word(column, i)] >> 4 * (column % 4));
        return words_[i / kChunk * 2 * kPair + column * 2 + i % 2] >> i % kChunk / 2 * kBits;
    }

    const uint32_t* words_;
    const uint16_t* columns_;
    alignas(64) float numbers_[16], scale_[kPair], offset_[kPair];
};

template <> class GroupOf<W_BF16_12BIT> {
public:
    GroupOf(const Weight& w, int pair, int k, int = 0, int = kPair) : group_(w, pair, k) {}
    float at(int column, int i) const { return widen(group_.at(column, i)); }

private:
    GroupOfPair group_;
};

// Calls f with the kind as a constant.
template <class F> inline void with_kind(int kind, F f) {
    switch (kind) {
        case W_INT8: return f(std::integral_constant<int, W_INT8>());
        case W_INT8G: return f(std::integral_constant<int, W_INT8G>());
        case W_INT4: return f(std::integral_constant<int, W_INT4>());
        case W_BF16_12BIT: return f(std::integral_constant<int, W_BF16_12BIT>());
        default: return;
    }
}

// Whether vectors dequantize a kind as products read it; other kinds are unpacked first.
template <int Kind>
constexpr bool has_dot =
#if defined(__AVX512F__) || defined(WEFT_ONLY_AVX2)
    Kind == W_INT8 || Kind == W_INT8G || Kind == W_INT4 || Kind == W_BF16_12BIT;
#else
    false;
#endif

inline bool dots(int kind) {
    bool found = false;
    with_kind(kind, [&](auto constant) { found = has_dot<decltype(constant)::value>; });
    return found;
}

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
    const float scale = w.kind == W_INT8 ? static_cast<const float*>(w.scale)[pair * kPair + lane] : 1.0f;
    with_kind(w.kind, [&](auto kind) {
        for (int k = 0; k < w.depth; k += kGroup) {
            const GroupOf<decltype(kind)::value> group(w, pair, k, lane, 1);
            for (int i = 0; i < std::min(kGroup, w.depth - k); ++i) {
                // A product with 1 would change the bits of a signalling NaN.
                const float x = group.at(lane, i);
                out[k + i] = T(decltype(kind)::value == W_INT8 ? x * scale : x);
            }
        }
    });
}

}  // namespace weft
