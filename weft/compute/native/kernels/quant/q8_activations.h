// Rows rounded to 8 bits, as weights in codes are multiplied with where they ask for it (Weight::int8_activations): code =
// x / scale to nearest, ties to even, scale = largest |x| / 127 of 32 of the depth (ggml's quantize_row_q8_0, with scales
// in fp32). A group with a number that is none, or with an infinity, has a scale that is none.
#pragma once

#include <cmath>

#include "kernels/common/scratch.h"
#include "kernels/common/simd.h"
#include "kernels/quant/weight.h"

namespace weft {

constexpr int kStep = 8;  // of the depth, which one vector of a weight's words covers

inline int steps_of(int kind, int depth) { return ceil_div(depth, chunk_of(kind)) * chunk_of(kind) / kStep; }

// What the products of a row's group begin and end with.
struct RoundedGroup {
    float scale;
    float total;           // of the numbers, in the unit of offsets
    int32_t without_zero;  // what takes the zero of the weight's codes away: - zero * sum of the row's codes
};

// Eight codes a step, in the order in which a weight's words hold theirs.
struct RoundedRows {
    const int8_t* codes;
    const RoundedGroup* groups;  // of all rows the first, then the second
    int64_t stride;              // bytes from row to row of codes
    int64_t count;               // rows from group to group

    RoundedRows behind(int64_t row) const { return {codes + row * stride, groups + row, stride, count}; }
    // Of each row the group `number`.
    WEFT_INLINE const RoundedGroup* of(int number) const { return groups + number * count; }
};

// Sixteen codes of neighbours of the depth in the order of the words that meet them: words of 8-bit codes hold every
// other one of eight, the two words of 4-bit codes every other one of sixteen, low nibbles first.
struct WordOrder {
    alignas(16) uint8_t from[16];

    explicit WordOrder(int kind) {
        for (int i = 0; i < 16; ++i) {
            const int step = i / 8, word = i % 8 / 4, byte = i % 4;
            from[i] = uint8_t(kind == W_INT4 ? 4 * byte + 2 * step + word : 8 * step + 2 * byte + word);
        }
    }
    void put(const int32_t codes[16], int8_t* to) const {
#if defined(__AVX512F__)
        const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_loadu_si512(codes));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_shuffle_epi8(bytes, *reinterpret_cast<const __m128i*>(from)));
#elif defined(__AVX2__)
        const auto* at = reinterpret_cast<const __m256i*>(codes);
        const __m256i words = _mm256_packs_epi32(_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1));
        const __m256i in_order = _mm256_permute4x64_epi64(words, 0xd8);
        const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(in_order), _mm256_extracti128_si256(in_order, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_shuffle_epi8(bytes, *reinterpret_cast<const __m128i*>(from)));
#else
        for (int i = 0; i < 16; ++i) to[i] = int8_t(codes[from[i]]);
#endif
    }
};

// The largest |x|; what is no number counts as more than infinity.
template <class S> inline float largest_magnitude(const S* x, int count) {
    constexpr int W = kWidth<float>;
    VecInt<float> most{};
    for (int k = 0; k < count; k += W) {
        const VecInt<float> bits = (VecInt<float>)take<float>(x + k, count - k) & 0x7fffffff;
        most = bits > most ? bits : most;
    }
    const int32_t bits = largest_of(most);
    float found;
    std::memcpy(&found, &bits, 4);
    return found;
}

// Of a group whose largest magnitude is `most`: what a code stands for, and what makes one of a number.
struct RoundedScale {
    float scale, inverse;

    explicit RoundedScale(float most) {
        const bool nothing = most < 1e-30f;  // of which the inverse would be infinite
        scale = nothing ? 0.0f : most / 127.0f, inverse = nothing ? 0.0f : 127.0f / most;
    }
};

// Quantizes `count` values to int8, with the sums that a weight's zero point and unit of offsets need; zeros up to a multiple
// of 16 follow.
template <class S>
inline RoundedGroup round_group(const S* x, int count, int zero, float unit, const WordOrder& order, int8_t* codes) {
    constexpr int W = kWidth<float>;
    const RoundedScale of_codes(largest_magnitude(x, count));
    const Vec<float> inverse = splat(of_codes.inverse);
    VecInt<float> sums{};
    for (int k = 0; k < count; k += 16) {
        alignas(64) int32_t whole[16];
        for (int i = 0; i < 16; i += W) {
            const Vec<float> scaled = take<float>(x + k + i, count - k - i) * inverse;
            const VecInt<float> code = nearest_integers(scaled);
            std::memcpy(whole + i, &code, sizeof code);
            sums += code;
        }
        order.put(whole, codes + k);
    }
    const int32_t sum = sum_of(sums);
    return {of_codes.scale, of_codes.scale * float(sum) * unit, -zero * sum};
}

// The rows that a thread multiplies, rounded when a chunk of them is first asked for, or again after another one.
class Rounding {
public:
    // `zero`: of the weight's codes. `unit`: of its offsets.
    Rounding(const Operand& from, const Weight& weight, int zero, float unit)
        : from_(from), order_(weight.kind), depth_(weight.depth), zero_(zero), unit_(unit) {}

    // Of a row.
    int groups() const { return ceil_div(depth_, kGroup); }

    // Bytes of a row.
    int64_t stride() const { return int64_t(groups()) * kGroup + 64; }

    RoundedRows chunk(int64_t first, int64_t count) {
        auto* codes = scratch<CODES_SCRATCH>().take<int8_t>(count * stride());
        auto* groups = scratch<GROUPS_SCRATCH>().take<RoundedGroup>(count * this->groups());
        const bool there = first == first_ && count == count_;
        first_ = first, count_ = count;
        for (int64_t r = 0; r < count && !there; ++r) {
            if (from_.dtype == BF16) round<bf16>(first + r, codes + r * stride(), groups + r, count);
            else if (from_.dtype == F64) round<double>(first + r, codes + r * stride(), groups + r, count);
            else round<float>(first + r, codes + r * stride(), groups + r, count);
        }
        return {codes, groups, stride(), count};
    }

private:
    enum Use : int { CODES_SCRATCH = 110, GROUPS_SCRATCH };

    // `apart`: from a row's group to its next.
    template <class S> void round(int64_t row, int8_t* codes, RoundedGroup* to, int64_t apart) const {
        const S* x = static_cast<const S*>(from_.base) + row * from_.stride;
        for (int k = 0; k < depth_; k += kGroup, to += apart)
            *to = round_group(x + k, std::min(kGroup, depth_ - k), zero_, unit_, order_, codes + k);
    }

    Operand from_;
    WordOrder order_;
    int depth_, zero_;
    float unit_;
    int64_t first_ = -1, count_ = 0;
};

}  // namespace weft
