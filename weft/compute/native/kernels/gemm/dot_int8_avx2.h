// Integer products of rounded rows where no instruction adds four products of bytes: pairs are added in 16 bits, which
// hold the eight pairs that codes of 4 bits bring to a group, but of 8 bits one. AVX2 only.
#pragma once

#include "kernels/gemm/int8_words.h"

#if defined(WEFT_ONLY_AVX2)

namespace weft {

// Sums of one vector of words over a group, for each of MR rows.
template <int Kind, int MR> class PairSums {
public:
    WEFT_INLINE void add(Words words, const Words (&codes)[MR]) {
        const __m256i of_words = (__m256i)words;
        if constexpr (Kind == W_INT4) {
#pragma GCC unroll 16
            for (int r = 0; r < MR; ++r) put(r, _mm256_add_epi16(sums_[r], _mm256_maddubs_epi16(of_words, (__m256i)codes[r])));
        } else {
#pragma GCC unroll 16
            for (int r = 0; r < MR; ++r) put(r, (__m256i)dot((Words)sums_[r], words, codes[r]));
        }
    }
    // A lane for each word.
    WEFT_INLINE Words of(int r) const { return (Words)(Kind == W_INT4 ? of_pairs(sums_[r]) : sums_[r]); }

private:
    // A compiler would add in a tree, for whose leaves there are no registers.
    WEFT_INLINE void put(int r, __m256i sum) {
        asm("" : "+x"(sum));
        sums_[r] = sum;
    }
    static_assert(kGroup / 4 * 2 * 15 * 127 <= INT16_MAX, "codes of 4 bits of a group are added in 16 bits");

    __m256i sums_[MR] = {};
};

// A row's codes of a group. A compiler would read those of all rows before the first column, more of them than there are
// registers, and spread them again and again.
template <int MR> WEFT_INLINE Pointers<int8_t, MR> codes_of_group(const RoundedRows& rows, int group) {
    return Pointers<int8_t, MR>({read_anew(rows.codes + group * kGroup), rows.stride});
}

// Of each row over a group's first `count` steps, out of a pair's codes as they lie: a column's words of a step are two lanes.
template <int MR, int Kind>
WEFT_INLINE void products(const WordsOfCodes<Kind>& codes, const RoundedRows& rows, int group, int count, Lines lines,
                          Words (&found)[MR][kColumnVectors]) {
    const char *const own = codes.group(group), *const later = codes.later(group);
    for (int j = 0; j < count; ++j) codes.fetch(later, j, lines);
#pragma GCC unroll 1
    for (int i = 0; i < kColumnVectors; ++i) {
        PairSums<Kind, MR> sums[2];
        auto at = codes_of_group<MR>(rows, group);
#pragma GCC unroll 4
        for (int j = 0; j < count; ++j, at.advance(kStep)) {
            Words eight[MR];
#pragma GCC unroll 16
            for (int r = 0; r < MR; ++r) eight[r] = eight_codes(at.row(r));
            sums[0].add(codes.word(own, j, 2 * i), eight), sums[1].add(codes.word(own, j, 2 * i + 1), eight);
        }
#pragma GCC unroll 16
        for (int r = 0; r < MR; ++r)
            found[r][i] += first_of_two(sums[0].of(r), sums[1].of(r)) + second_of_two(sums[0].of(r), sums[1].of(r));
    }
}

// The same out of a panel: a column's word is a lane.
template <int MR, int Kind>
WEFT_INLINE void products(const WordsOfPanel<Kind>& panel, const RoundedRows& rows, int group, int count, Lines lines,
                          Words (&found)[MR][kColumnVectors]) {
    const char* const later = panel.later(group);
    for (int j = 0; j < count; ++j) panel.fetch(later, j, lines);
#pragma GCC unroll 1
    for (int i = 0; i < kColumnVectors; ++i) {
        PairSums<Kind, MR> sums;
        const int32_t* at = panel.words(group * kGroupSteps) + i * kWordLanes;
        auto codes = codes_of_group<MR>(rows, group);
#pragma GCC unroll 8
        for (int half = 0; half < 2 * count; ++half, at += kStepBytes / 8, codes.advance(kStep / 2)) {
            Words four[MR];
#pragma GCC unroll 16
            for (int r = 0; r < MR; ++r) four[r] = four_codes(codes.row(r));
            sums.add(load_words(at), four);
        }
#pragma GCC unroll 16
        for (int r = 0; r < MR; ++r) found[r][i] += sums.of(r);
    }
}

}  // namespace weft

#endif
