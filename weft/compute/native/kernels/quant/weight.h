// Where the elements of a packed weight lie. Terms of all kernels:
//   column  an output of the matrix: one row of the checkpoint's [out, in] tensor
//   depth   the length of a dot product: the inputs of a column
//   panel   16 neighbouring columns, packed for vectors
//   pair    two panels, 32 columns: one stream that a kernel reads from its first byte to its last
//   group   32 of the depth, which share a scale where a weight is quantized
//   tile    some rows times the columns of a pair, whose sums stay in registers
//
// Columns go in pairs of 16-column panels; a pair is one stream that a product reads from its first byte to its last.
//   W_BF16           [depth / 2][32 columns][2]; for AMX [depth / 32][2 panels][16][16 columns][2], each panel of 32 of the
//                    depth being what a register holds
//   W_F32, W_F64     [depth][32 columns]
//   W_INT8, W_INT8G  [depth / 8][32 columns][2] 32-bit words of four codes each, W_INT4 [depth / 16][32 columns][2]
//                    words of eight: code j (from the lowest bits) of word p of chunk c belongs to depth 8 c + 2 j + p,
//                    or 16 c + 2 j + p
//   W_INT4 by columns (for AMX, and rows that are not rounded): [depth / 32][8][32] 16-bit words of four codes; code j of
//                    word k of the q-th 32 of group g belongs to column 4 q + j and depth 32 g + k
//   W_BF16_12BIT           [depth / 32] groups, which lossless_bf16.h describes
// Scales of W_INT8: fp32 per packed column. Scales and offsets of groups: fp16 [pair][depth / 32][32 columns], or words of
// 16 bits that stand for both (see ShortNumber).
// Depths are rounded up; columns beyond the last hold zeros, of W_BF16_12BIT the numbers of the pair's first. An interleaved
// weight [2 I, depth] (gate above up) puts gate i in column i % 16 of pair i / 16, and up i sixteen columns after it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "runtime/instruction.h"
#include "kernels/quant/scale16.h"

namespace weft {

constexpr int kPair = 32;   // columns of a pair
constexpr int kGroup = 32;  // depth of a group with one scale

#if defined(__AMX_BF16__)
constexpr int kTogether = 16;  // pairs of the depth whose 16 columns lie together, W_BF16
constexpr bool kTakesColumns = true;
#else
constexpr int kTogether = 1;
constexpr bool kTakesColumns = false;
#endif

// Place of a pair of the depth in a stream, in 32-bit words.
inline constexpr int64_t pair_word(int k_pair, int column) {
    return int64_t(k_pair / kTogether) * kTogether * kPair + column / 16 * kTogether * 16 + k_pair % kTogether * 16 +
           column % 16;
}

// What codes of 8 bits are multiplied by as they become numbers; a power of two, so that it leaves no trace.
#if defined(__AVX2__)
constexpr float kCodeUnit = 16777216.0f;
#else
constexpr float kCodeUnit = 1.0f;
#endif

inline int ceil_div(int n, int unit) { return (n + unit - 1) / unit; }

inline int pairs_of(int columns, bool interleaved) {
    return interleaved ? ceil_div(columns / 2, kPair / 2) : ceil_div(columns, kPair);
}
inline int pairs_of(const Weight& w) { return pairs_of(w.columns, w.interleaved); }

inline constexpr bool grouped(int kind) { return kind == W_INT4 || kind == W_INT8G; }
inline constexpr bool rounded(int kind) { return kind == W_INT8 || grouped(kind); }  // to codes

// Depth of a word's neighbours: twice the codes of a word.
inline constexpr int chunk_of(int kind) { return kind == W_INT4 ? 16 : 8; }

// Whether codes of 4 bits lie column by column.
inline bool by_columns(const Weight& w) { return kTakesColumns && w.kind == W_INT4 && !w.int8_activations; }

// Bytes of one pair.
inline int64_t pair_bytes(int kind, int depth) {
    switch (kind) {
        case W_F32: return int64_t(depth) * kPair * 4;
        case W_F64: return int64_t(depth) * kPair * 8;
        case W_BF16: return int64_t(ceil_div(depth, 2 * kTogether)) * kTogether * kPair * 4;
        case W_BF16_12BIT: return int64_t(ceil_div(depth, kGroup)) * kGroup * kPair * 3 / 2;
        case W_INT4: depth = kTakesColumns ? ceil_div(depth, kGroup) * kGroup : depth; [[fallthrough]];  // in either order
        default: return int64_t(ceil_div(depth, chunk_of(kind))) * kPair * 8;
    }
}

// Packed column of row `row` of the matrix.
inline int packed_column(int row, int columns, bool interleaved) {
    if (!interleaved) return row;
    int half = columns / 2, i = row % half;
    return i / 16 * kPair + row / half * 16 + i % 16;
}

inline const char* pair_data(const Weight& w, int pair) {
    return static_cast<const char*>(w.data) + pair * pair_bytes(w.kind, w.depth);
}

// Which 16-bit word of a pair by columns has the code of (column, k); it is the word's `column % 4`th.
inline int64_t column_word(int column, int k) {
    return int64_t(k / kGroup) * (kPair / 4 * kGroup) + column / 4 * kGroup + k % kGroup;
}

// Code of element (column, k) of a pair.
inline int code_of(const Weight& w, int pair, int column, int k) {
    const char* data = pair_data(w, pair);
    if (by_columns(w)) return reinterpret_cast<const uint16_t*>(data)[column_word(column, k)] >> 4 * (column % 4) & 15;
    const int chunk = chunk_of(w.kind), code = k % chunk / 2;
    uint32_t word = reinterpret_cast<const uint32_t*>(data)[int64_t(k / chunk) * 64 + column * 2 + k % 2];
    return w.kind == W_INT4 ? int(word >> (4 * code) & 15) : int(int8_t(word >> (8 * code)));
}

// Scale and offset of a group's column; 0 where there is none.
struct GroupNumber {
    float scale, offset;

    GroupNumber(const Weight& w, int pair, int column, int k) {
        const int64_t at = (int64_t(pair) * ceil_div(w.depth, kGroup) + k / kGroup) * kPair + column;
        const uint16_t own = static_cast<const uint16_t*>(w.scale)[at];
        scale = w.scale16 ? ShortNumber{own}.scale() : from_half(own);
        if (w.scale16) offset = ShortNumber{own}.offset();
        else offset = w.offset ? from_half(static_cast<const uint16_t*>(w.offset)[at]) : 0.0f;
    }
};

// Numbers of a group count as bf16, whatever they are multiplied with: the weight is a shorter form of a bf16 matrix, and
// products with it give the bits of that matrix.
inline float rounded_to_bf16(float x) {
    bf16 y;
    narrow(x, y);
    return widen(y);
}

}  // namespace weft
