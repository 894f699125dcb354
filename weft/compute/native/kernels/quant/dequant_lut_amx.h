// Numbers of W_INT4 by columns out of their codes, 32 of one column at a time: a word of a group's scale stands for sixteen
// numbers, and codes pick among them. For tile registers, which take columns as they take rows.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/quant/dequant_avx512.h"
#include "kernels/common/transpose.h"

#if defined(__AMX_BF16__)

namespace weft {

constexpr int kNumbers = 16;            // that a code of 4 bits picks from
constexpr int kScaleWords = 1 << 16;    // which Weight::lut has the numbers of: bf16 [kScaleWords][kNumbers]
constexpr int kScalesSoon = kSoon / 8;  // 64 bytes of scales belong to 512 of codes

// Of the 32 columns of a group, from words of scales and, perhaps, of offsets.
struct NumbersOfGroup {
    alignas(64) bf16 of[kPair][kNumbers];

    NumbersOfGroup(const Weight& w, const uint16_t* scales, const uint16_t* offsets) {
        alignas(64) float scale[kPair], offset[kPair] = {};
        for (int c = 0; c < kPair; c += kWidth<float>) {
            if (w.scale16) {
                const ShortNumbers columns(load_halves(scales + c));
                store(scale + c, columns.scale), store(offset + c, columns.offset());
            } else {
                store(scale + c, widen(load_halves(scales + c)));
                if (offsets) store(offset + c, widen(load_halves(offsets + c)));
            }
        }
        const __m256i halves = _mm256_loadu_si256(static_cast<const __m256i*>(w.table));
        const __m512 table = (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
        auto numbers = [&](int c) WEFT_LAMBDA_INLINE {
            return _mm512_fmadd_ps(table, _mm512_set1_ps(scale[c]), _mm512_set1_ps(offset[c]));
        };
        for (int c = 0; c < kPair; c += 2) _mm512_store_si512(of[c], (__m512i)_mm512_cvtne2ps_pbh(numbers(c + 1), numbers(c)));
    }
};

// Numbers of every word that a scale may be, for weights with the table and the kind of scales of `w`, without offsets of
// their own.
inline void fill_lut(const Weight& w, bf16* to) {
    for (int word = 0; word < kScaleWords; word += kPair, to += kPair * kNumbers) {
        uint16_t words[kPair];
        for (int c = 0; c < kPair; ++c) words[c] = uint16_t(word + c);
        const NumbersOfGroup numbers(w, words, nullptr);
        std::memcpy(to, numbers.of, sizeof numbers.of);
    }
}

class CodesByColumn {
public:
    static constexpr bool kGrouped = true;
    static constexpr int kChunk = kGroup, kSteps = kChunk / 2, kChunkBytes = kPair * kGroup / 2;

    CodesByColumn(const Weight& w, int pair) : weight_(w), codes_(pair_data(w, pair)) {
        const int64_t first = int64_t(pair) * ceil_div(w.depth, kGroup) * kPair;
        scale_ = static_cast<const uint16_t*>(w.scale) + first;
        if (w.offset) offset_ = static_cast<const uint16_t*>(w.offset) + first;
    }

    // What is soon taken, when `chunk` is.
    WEFT_INLINE const char* soon(int chunk) const { return codes_ + kSoon + int64_t(chunk) * kChunkBytes; }

    // to[32][32] = the group's columns; zeros after `depth`.
    WEFT_INLINE void lay_columns(int group, int depth, bf16* to) const {
        const uint16_t* const scale = scale_ + group * kPair;
        const __mmask32 there = depth < kGroup ? (__mmask32(1) << depth) - 1 : ~__mmask32(0);
        if (const auto* numbers = static_cast<const bf16*>(weight_.lut)) {
            __builtin_prefetch(reinterpret_cast<const char*>(scale) + kScalesSoon, 0, 2);
            pick(group, there, to, [&](int c) WEFT_LAMBDA_INLINE {
                uint64_t words;  // of four columns: a load for each would be one too many
                std::memcpy(&words, scale + c / 4 * 4, sizeof words);
                return numbers + (words >> c % 4 * 16 & (kScaleWords - 1)) * kNumbers;
            });
        } else {
            const NumbersOfGroup own(weight_, scale, offset_ ? offset_ + group * kPair : nullptr);
            pick(group, there, to, [&](int c) WEFT_LAMBDA_INLINE { return own.of[c]; });
        }
    }

    // Calls pairs(j, half, words) for the j-th pair of the depth and 16 columns, one word for each; zeros after `depth`.
    template <class Pairs> WEFT_INLINE void each_pair(int group, int depth, Pairs pairs) const {
        alignas(64) bf16 columns[kPair * kGroup];
        lay_columns(group, depth, columns);
#pragma GCC unroll 1
        for (int half = 0; half < 2; ++half)
            turn_square(
                16, [&](int c) WEFT_LAMBDA_INLINE { return columns + (16 * half + c) * kGroup; },
                [&](int j, __m512i words) WEFT_LAMBDA_INLINE { pairs(j, half, words); });
    }

    // As of CodesOfPair; a step's values are two vectors of bf16 pairs, of columns 0 to 15 and 16 to 31.
    template <class Step, class Chunk> WEFT_INLINE void each_step(int from, int depth, Step step, Chunk begin) const {
        for (int group = from / kGroup; depth > 0; ++group, depth -= kGroup) {
            begin(group);
            __m512i values[kSteps][2];
            each_pair(group, depth, [&](int j, int half, __m512i words) WEFT_LAMBDA_INLINE { values[j][half] = words; });
            for (int j = 0; j < std::min(depth, kGroup) / 2; ++j) step(j, values[j], std::false_type());
            if (depth < kGroup && depth % 2) step(depth / 2, values[depth / 2], std::true_type());
        }
    }

private:
    // `numbers_of`(column): sixteen.
    template <class Numbers> WEFT_INLINE void pick(int group, __mmask32 there, bf16* to, Numbers numbers_of) const {
        const char* at = codes_ + int64_t(group) * kChunkBytes;
#pragma GCC unroll 8
        for (int c = 0; c < kPair; c += 4, at += 64) {
            const __m512i words = _mm512_loadu_si512(at);
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                const auto* sixteen = reinterpret_cast<const __m256i*>(numbers_of(c + j));
                const __m512i twice = _mm512_broadcast_i64x4(_mm256_loadu_si256(sixteen));  // whatever the fifth bit is
                const __m512i code = j ? _mm512_srli_epi16(words, unsigned(4 * j)) : words;
                _mm512_storeu_si512(to + (c + j) * kGroup, _mm512_maskz_permutexvar_epi16(there, code, twice));
            }
        }
    }

    const Weight& weight_;
    const char* codes_;
    const uint16_t *scale_, *offset_ = nullptr;
};

}  // namespace weft

#endif
