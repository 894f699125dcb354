// Codes of W_INT8, W_INT8G and W_INT4: rounded from numbers, or taken out of the blocks of a GGUF file as they are.
//
// Rounding, to nearest, ties to even: W_INT8 scale = peak / 127, peak = largest |x| of the column, or of more than is
// packed of it, which the caller knows; W_INT8G the same per group, in fp16
// (ggml's quantize_row_q8_0); W_INT4 with the short number that scale_search.h finds.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/quant/scale_search.h"
#include "kernels/quant/weight.h"

namespace weft {

enum SourceFormat : int { FROM_F32 = F32, FROM_BF16 = BF16, FROM_F64 = F64, FROM_Q8_0 = 16, FROM_Q4_0 = 17, FROM_Q4_1 = 18 };

// One column: a code per depth, and the numbers of its groups (of the column for W_INT8).
struct Codes {
    std::vector<int8_t> code;
    std::vector<uint16_t> scale, offset;
    float column_scale = 0;

    explicit Codes(int depth) : code(ceil_div(depth, kGroup) * kGroup), scale(ceil_div(depth, kGroup)), offset(scale.size()) {}
};

// The codes of 32 numbers, and 0 of what is no number.
inline void codes_of_group(const float* x, float inverse, float offset, int low, int high, int8_t* code) {
    constexpr int W = kWidth<float>;
    const Vec<float> least = splat(float(low)), most = splat(float(high));
    int32_t codes[kGroup];
    for (int k = 0; k < kGroup; k += W) {
        const Vec<float> exact = (load(x + k) - offset) * inverse;
        VecInt<float> found = nearest_integers(exact < least ? least : exact > most ? most : exact);
        found = exact == exact ? found : VecInt<float>{};
        std::memcpy(codes + k, &found, sizeof found);
    }
    for (int k = 0; k < kGroup; ++k) code[k] = int8_t(codes[k]);
}

inline void round_codes(const float* x, int count, float scale, float offset, int low, int high, int8_t* code) {
    const float inverse = scale != 0 ? 1 / scale : 0;
    const int whole = count / kGroup * kGroup;
    for (int k = 0; k < whole; k += kGroup) codes_of_group(x + k, inverse, offset, low, high, code + k);
    float rest[kGroup] = {};
    int8_t codes[kGroup];
    std::copy(x + whole, x + count, rest);
    if (whole < count) codes_of_group(rest, inverse, offset, low, high, codes);
    std::copy_n(codes, count - whole, code + whole);
}

// Of the numbers, or NaN where one is NaN: all that share its scale are no numbers then, as in torch.
struct Range {
    float low, high;

    Range(const float* x, int count) : low(x[0]), high(x[0]) {
        constexpr int W = kWidth<float>;
        Vec<float> least = splat(low), most = least;
        VecInt<float> none{};
        int k = 0;
        for (; k + W <= count; k += W) {
            const Vec<float> number = load(x + k);
            least = number < least ? number : least, most = number > most ? number : most, none |= number != number;
        }
        bool whole = true;
        for (int i = 0; i < W; ++i) low = std::min(low, least[i]), high = std::max(high, most[i]), whole &= !none[i];
        for (; k < count; ++k) low = std::min(low, x[k]), high = std::max(high, x[k]), whole &= x[k] == x[k];
        if (!whole) low = high = std::numeric_limits<float>::quiet_NaN();
    }
    float magnitude() const { return std::max(std::fabs(low), std::fabs(high)); }
};

inline void quantize_column(int kind, const float* x, int depth, const float* peak, Codes& to) {
    if (kind == W_INT8) {
        to.column_scale = (peak ? *peak : Range(x, depth).magnitude()) / 127;
        return round_codes(x, depth, to.column_scale, 0, -127, 127, to.code.data());
    }
    for (int k = 0; k < depth; k += kGroup) {
        int count = std::min(kGroup, depth - k);
        int8_t* code = to.code.data() + k;
        uint16_t& scale = to.scale[k / kGroup];
        const Range range(x + k, count);
        if (kind == W_INT4) {
            const ShortNumber number = ShortRounding(x + k, count, range.low, range.high).best();
            scale = number.word;
            round_codes(x + k, count, number.scale(), number.offset(), 0, 15, code);
        } else {
            scale = to_half(range.magnitude() / 127);
            round_codes(x + k, count, from_half(scale), 0, -127, 127, code);
        }
    }
}

inline int block_bytes(int format) { return format == FROM_Q8_0 ? 34 : format == FROM_Q4_0 ? 18 : 20; }

// Blocks of 32: [scale | 32 bytes], [scale | 16 bytes], [scale | offset | 16 bytes]; of the latter two, low nibbles come first.
inline void take_blocks(int format, const char* row, int depth, Codes& to) {
    for (int g = 0; g * kGroup < depth; ++g, row += block_bytes(format)) {
        std::memcpy(&to.scale[g], row, 2);
        int8_t* code = to.code.data() + g * kGroup;
        if (format == FROM_Q8_0) {
            std::memcpy(code, row + 2, kGroup);
            continue;
        }
        if (format == FROM_Q4_1) std::memcpy(&to.offset[g], row + 2, 2);
        const char* packed = row + (format == FROM_Q4_1 ? 4 : 2);
        for (int i = 0; i < 16; ++i) code[i] = packed[i] & 15, code[16 + i] = packed[i] >> 4 & 15;
    }
}

// Among those of its three neighbours, whose bits stay.
inline void lay_by_columns(const int8_t* code, int depth, int column, uint16_t* to) {
    const int shift = 4 * (column % 4);
    for (int k = 0; k < ceil_div(depth, kGroup) * kGroup; ++k) {
        uint16_t& word = to[column_word(column, k)];
        word = uint16_t((word & ~(15 << shift)) | code[k] << shift);
    }
}

inline void lay_by_depth(int kind, const int8_t* code, int depth, int column, uint32_t* to) {
    uint32_t* words = to + column * 2;
    const int chunk = chunk_of(kind), bits = 64 / chunk;
    for (int k = 0; k < depth; k += chunk, words += 64)
        for (int p = 0; p < 2; ++p) {
            uint32_t word = 0;
            for (int j = 0; j < chunk / 2; ++j) word |= (uint32_t(code[k + 2 * j + p]) & ((1u << bits) - 1)) << (bits * j);
            words[p] = word;
        }
}

// Writes a column's codes and numbers to where they belong.
inline void lay_codes(const Weight& w, const Codes& codes, int pair, int column) {
    char* to = const_cast<char*>(pair_data(w, pair));
    if (by_columns(w)) lay_by_columns(codes.code.data(), w.depth, column, reinterpret_cast<uint16_t*>(to));
    else lay_by_depth(w.kind, codes.code.data(), w.depth, column, reinterpret_cast<uint32_t*>(to));
    if (w.kind == W_INT8) {
        static_cast<float*>(const_cast<void*>(w.scale))[pair * kPair + column] = codes.column_scale;
        return;
    }
    int64_t groups = ceil_div(w.depth, kGroup);
    for (int64_t g = 0; g < groups; ++g) {
        int64_t at = (pair * groups + g) * kPair + column;
        static_cast<uint16_t*>(const_cast<void*>(w.scale))[at] = codes.scale[g];
        if (w.offset) static_cast<uint16_t*>(const_cast<void*>(w.offset))[at] = codes.offset[g];
    }
}

template <class S> void as_floats(const char* row, int depth, float* to) {
    for (int k = 0; k < depth; ++k) to[k] = float(widen(reinterpret_cast<const S*>(row)[k]));
}

// `peaks`: of each of the sixteen columns; null where what is packed is all of it.
inline void pack_codes(const Weight& w, const char* const rows[16], const float* const peaks[16], int format, int pair,
                       int panel) {
    std::vector<float> numbers(w.depth);
    for (int r = 0; r < 16; ++r) {
        Codes codes(w.depth);
        if (rows[r] && format >= FROM_Q8_0) {
            take_blocks(format, rows[r], w.depth, codes);
        } else if (rows[r]) {
            if (format == FROM_BF16) as_floats<bf16>(rows[r], w.depth, numbers.data());
            else if (format == FROM_F64) as_floats<double>(rows[r], w.depth, numbers.data());
            else as_floats<float>(rows[r], w.depth, numbers.data());
            quantize_column(w.kind, numbers.data(), w.depth, peaks[r], codes);
        }
        lay_codes(w, codes, pair, panel * 16 + r);
    }
}

}  // namespace weft
