// Words of four codes as products of rounded rows take them: out of a pair's codes as they lie, or out of a panel that
// many rows share.
#pragma once

#include "kernels/gemm/gemm_tile.h"
#include "kernels/quant/interleaved_columns.h"
#include "kernels/quant/q8_activations.h"

namespace weft {

using Words = VecInt<float>;  // four codes a lane
constexpr int kWordLanes = kWidth<float>;
constexpr int kColumnVectors = kPair / kWordLanes;  // a lane for each column of a pair
constexpr int kStepVectors = 2 * kColumnVectors;    // a column's eight codes of a step lie in two lanes
constexpr int kStepBytes = 2 * kPair * 4;
constexpr int kGroupSteps = kGroup / kStep;

#if defined(__AVX512VNNI__)
constexpr int kShift = 128;  // what is added to signed codes, which the product wants unsigned
#else
constexpr int kShift = 0;
#endif

WEFT_INLINE Words load_words(const void* from) { return (Words)load(static_cast<const float*>(from)); }

// The same eight bytes again and again.
WEFT_INLINE Words eight_codes(const int8_t* codes) {
#if defined(__AVX512F__)
    return (Words)_mm512_set1_epi64(*reinterpret_cast<const int64_t __attribute__((may_alias))*>(codes));
#elif defined(__AVX2__)
    return (Words)_mm256_set1_epi64x(*reinterpret_cast<const int64_t __attribute__((may_alias))*>(codes));
#else
    Words all;
    for (int i = 0; i < kWordLanes; i += 2) std::memcpy(reinterpret_cast<char*>(&all) + 4 * i, codes, 8);
    return all;
#endif
}

// The same four bytes again and again.
WEFT_INLINE Words four_codes(const int8_t* codes) {
    int32_t word;
    std::memcpy(&word, codes, 4);
    return Words{} + word;
}

// The first, and the second, of every two lanes of a and then b, which are columns: mixed.
#if defined(__AVX512F__)
WEFT_INLINE Words first_of_two(Words a, Words b) {
    const __m512i lanes = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return (Words)_mm512_permutex2var_epi32((__m512i)a, lanes, (__m512i)b);
}
WEFT_INLINE Words second_of_two(Words a, Words b) {
    const __m512i lanes = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return (Words)_mm512_permutex2var_epi32((__m512i)a, lanes, (__m512i)b);
}
#elif defined(__AVX2__)
WEFT_INLINE Words first_of_two(Words a, Words b) { return (Words)mixed_first((__m256i)a, (__m256i)b); }
WEFT_INLINE Words second_of_two(Words a, Words b) { return (Words)mixed_second((__m256i)a, (__m256i)b); }
#else
WEFT_INLINE Words first_of_two(Words a, Words b) { return one_of_two<0>(a, b); }
WEFT_INLINE Words second_of_two(Words a, Words b) { return one_of_two<1>(a, b); }
#endif

#if defined(__AVX2__)
// Sums of 16 bits in twos.
WEFT_INLINE __m256i of_pairs(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }
// Codes of weights are 8 bits at most: products of their magnitudes with 127 fit 16 bits in pairs.
WEFT_INLINE __m256i four_products(__m256i weights, __m256i codes) {
    return of_pairs(_mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(codes, weights)));
}
#endif

// sum + the four products of each lane.
WEFT_INLINE Words dot(Words sum, Words weights, Words codes) {
#if defined(__AVX512VNNI__)
    return (Words)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)weights, (__m512i)codes);
#elif defined(__AVX512F__)
    const __m256i low = four_products(_mm512_castsi512_si256((__m512i)weights), _mm512_castsi512_si256((__m512i)codes));
    const __m256i high = four_products(_mm512_extracti64x4_epi64((__m512i)weights, 1), _mm512_castsi512_si256((__m512i)codes));
    return sum + (Words)_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
#elif defined(__AVX2__)
    return sum + (Words)four_products((__m256i)weights, (__m256i)codes);
#else
    for (int i = 0; i < 4; ++i) sum += (weights << (24 - 8 * i) >> 24) * (codes << (24 - 8 * i) >> 24);
    return sum;
#endif
}

// Scales and offsets of a group's columns, mixed; of short numbers offsets are zeros, which count `offset_unit` scales.
struct ColumnNumbers {
    Vec<float> scale[kColumnVectors], offset[kColumnVectors];
};

inline float offset_unit(const Weight& w) { return w.scale16 ? -ShortNumber::kZeroUnit : 1.0f; }

// 32 fp16 numbers as fp32.
WEFT_INLINE void take_halves(const uint16_t* numbers, Vec<float> (&to)[kColumnVectors]) {
#pragma GCC unroll 8
    for (int i = 0; i < kColumnVectors; ++i) to[i] = widen(mixed(load_halves(numbers + i * kWordLanes)));
}

WEFT_INLINE void take_short(const uint16_t* numbers, ColumnNumbers& to) {
#pragma GCC unroll 8
    for (int i = 0; i < kColumnVectors; ++i) {
        const ShortNumbers columns(mixed(load_halves(numbers + i * kWordLanes)));
        to.scale[i] = columns.scale, to.offset[i] = columns.zero;
    }
}

// What codes of a kind stand for, beside scale and offset: number = code as a lane holds it - zero.
inline int zero_of(const Weight& w) { return w.kind == W_INT4 ? -int(widen(static_cast<const bf16*>(w.table)[0])) : kShift; }

// Of a step's cache lines [first, last).
struct Lines {
    int first, last;

    // Those that tile `number` of `tiles` over the same codes asks for, of `all`.
    static Lines of_tile(int number, int tiles, int all) {
        const int sharing = std::min(tiles, all);
        return number < sharing ? Lines{all * number / sharing, all * (number + 1) / sharing} : Lines{0, 0};
    }
};

WEFT_INLINE void fetch_lines(const char* from, Lines lines) {
    for (int i = lines.first; i < lines.last; ++i) __builtin_prefetch(from + 64 * i, 0, 2);
}

// The words of one pair, out of its codes.
template <int Kind> class WordsOfCodes {
public:
    // `ahead`: how many bytes before they are taken codes are asked for.
    WordsOfCodes(const Weight& w, int pair, int64_t ahead) : codes_(pair_data(w, pair)), ahead_(ahead) {
        const int64_t numbers = int64_t(pair) * ceil_div(w.depth, kGroup) * kPair;
        if (!grouped(Kind)) return;
        scale_ = static_cast<const uint16_t*>(w.scale) + numbers, short_ = w.scale16;
        if (w.offset) offset_ = static_cast<const uint16_t*>(w.offset) + numbers;
    }

    // Where a group's codes lie.
    WEFT_INLINE const char* group(int number) const {
        return codes_ + int64_t(number) * (kGroupSteps / kTogether * kStepBytes);
    }

    // Step `j` of the group at `from`.
    static WEFT_INLINE void step(const char* from, int j, Words (&words)[kStepVectors]) {
#pragma GCC unroll 16
        for (int i = 0; i < kStepVectors; ++i) words[i] = word(from, j, i);
    }
    // Its vector `i`.
    static WEFT_INLINE Words word(const char* from, int j, int i) {
        const Words words = load_words(from + j / kTogether * kStepBytes + i * kWordLanes * 4);
        if (Kind != W_INT4) return kShift ? words ^ int32_t(0x80808080) : words;
        return (j % 2 ? words >> 4 : words) & 0x0f0f0f0f;
    }

    // Address to prefetch while this group is read: where a core multiplies at memory speed, its hardware prefetcher does not
    // look far enough ahead.
    WEFT_INLINE const char* later(int group) const { return this->group(group) + ahead_; }

    // Asks for some of the lines of step `j` of what lies at `from`.
    static WEFT_INLINE void fetch(const char* from, int j, Lines lines) {
        from += j * kLines * 64;
        if (lines.last - lines.first < kLines) return fetch_lines(from, lines);
#pragma GCC unroll 4
        for (int i = 0; i < kLines; ++i) __builtin_prefetch(from + 64 * i, 0, 2);
    }

    WEFT_INLINE ColumnNumbers numbers(int group) const {
        ColumnNumbers found;
        if (short_) return take_short(scale_ + group * kPair, found), found;
        take_halves(scale_ + group * kPair, found.scale);
        if (offset_) take_halves(offset_ + group * kPair, found.offset);
        return found;
    }

    static constexpr int kTogether = Kind == W_INT4 ? 2 : 1;  // steps whose codes share their bytes
    static constexpr int kLines = kStepBytes / kTogether / 64;

private:
    const char* codes_;
    int64_t ahead_;
    const uint16_t *scale_ = nullptr, *offset_ = nullptr;
    bool short_ = false;
};

// The words of one pair, a column's first and then its second of a step, and its scales, for many rows.
template <int Kind> class WordsOfPanel {
public:
    WordsOfPanel(const WordsOfCodes<Kind>& codes, int steps, int groups) : later_(codes.later(0)) {
        words_ = scratch<WORDS_SCRATCH>().template take<int32_t>(steps * kStepBytes / 4);
        for (int s = 0; s < steps; ++s) {
            Words words[kStepVectors], *to = reinterpret_cast<Words*>(words_ + s * kStepBytes / 4);
            const char* at = codes.group(s / kGroupSteps);
            codes.step(at, s % kGroupSteps, words);
            for (int i = 0; i < kColumnVectors; ++i) {
                to[i] = first_of_two(words[2 * i], words[2 * i + 1]);
                to[kColumnVectors + i] = second_of_two(words[2 * i], words[2 * i + 1]);
            }
        }
        numbers_ = scratch<NUMBERS_SCRATCH>().template take<ColumnNumbers>(std::max(groups, 1));
        for (int g = 0; g < groups; ++g) numbers_[g] = codes.numbers(g);
    }

    const int32_t* words(int step) const { return words_ + step * kStepBytes / 4; }
    const ColumnNumbers& numbers(int group) const { return numbers_[group]; }

    // As of the codes that it was laid out of.
    const char* later(int group) const { return later_ + int64_t(group) * kGroupSteps * kLines * 64; }
    WEFT_INLINE void fetch(const char* from, int j, Lines lines) const { fetch_lines(from + j * kLines * 64, lines); }

private:
    enum Use : int { WORDS_SCRATCH = 112, NUMBERS_SCRATCH };

    static constexpr int kLines = WordsOfCodes<Kind>::kLines;
    const char* const later_;
    int32_t* words_;
    ColumnNumbers* numbers_;
};

}  // namespace weft
