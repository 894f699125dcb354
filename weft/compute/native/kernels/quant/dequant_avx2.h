// Halves and codes of a pair as numbers of fp32, eight columns at a time. AVX2 only; where vectors are wider see
// dequant_avx512.h.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/quant/lossless_bf16.h"
#include "kernels/common/fp16.h"
#include "kernels/gemm/gemm_tile.h"
#include "kernels/quant/interleaved_columns.h"

#if defined(WEFT_ONLY_AVX2)

namespace weft {

constexpr int kEights = kPair / 8;  // vectors of a pair's columns

// Of two neighbours of the depth.
inline constexpr std::false_type kFirst{};
inline constexpr std::true_type kSecond{};

template <class Which> WEFT_INLINE __m256 one_of(__m256i pairs, Which) {
    if (Which::value) return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(int(0xffff0000))));
    return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}

// Where what was read for first neighbours is read for second ones, `Anew` or not.
template <bool Anew> WEFT_INLINE const char* place(const char* at) { return Anew ? read_anew(at) : at; }

// Numbers of W_BF16 of one pair. Of each class here: each_step(from, depth, step, last) calls step(of) for each two neighbours
// of the depth [from, from + depth) in order, of(i, kFirst or kSecond) being numbers of columns 8 i to 8 i + 7; last(of) for
// the single one at the end of an odd depth; `from` is a multiple of kGroup. `fetches`: what is soon taken is asked for.
// `Anew`: second neighbours are read anew. kPaired: that is dear, as both come out of a vector that takes long to make.
// kMixed: columns are (interleaved_columns.h).
class FloatsOfHalves {
public:
    static constexpr bool kPaired = false, kMixed = false;

    FloatsOfHalves(const Weight& w, int pair, bool fetches) : pairs_(pair_data(w, pair)), fetches_(fetches) {}

    template <bool Anew, class Step, class Last> WEFT_INLINE void each_step(int from, int depth, Step step, Last last) const {
        const char* at = pairs_ + int64_t(from / 2) * kStepBytes;
        auto of = [&at](int i, auto which) WEFT_LAMBDA_INLINE {
            constexpr bool anew = Anew && decltype(which)::value;
            return one_of(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(place<anew>(at) + 32 * i)), which);
        };
#pragma GCC unroll 2
        for (; depth >= 2; depth -= 2, at += kStepBytes) {
            if (fetches_) __builtin_prefetch(at + kSoon, 0, 2), __builtin_prefetch(at + kSoon + 64, 0, 2);
            step(of);
        }
        if (depth) last(of);
    }

private:
    static constexpr int kStepBytes = kPair * 4;
    const char* pairs_;
    bool fetches_;
};

// Numbers of W_BF16_12BIT: those of chunks whose numbers are all near, or of others, laid first.
class FloatsOfBf16In12Bits {
public:
    static constexpr bool kPaired = true, kMixed = false;
    static constexpr int kChunk = kBf16In12BitsChunk, kSteps = kChunk / 2, kChunkBytes = kChunk / 4 * kQuadBytes;

    FloatsOfBf16In12Bits(const Weight& w, int pair, bool fetches)
        : fetches_(fetches), codes_(pair_data(w, pair)),
          groups_(static_cast<const Bf16In12BitsGroup*>(w.scale) + bf16_12bit_group(w, pair, 0)),
          far_(static_cast<const FarNumber*>(w.offset)) {}

    template <bool Anew, class Step, class Last> WEFT_INLINE void each_step(int from, int depth, Step step, Last last) const {
        for (int chunk = from / kChunk; depth > 0; ++chunk, depth -= kChunk) {
            const Bf16In12BitsGroup& group = groups_[chunk / (kGroup / kChunk)];
            const char* const at = codes_ + int64_t(chunk) * kChunkBytes;
            if (__builtin_expect(depth < kChunk, 0) || group.kind(chunk) == WITH_FAR) from_laid(chunk, depth, step, last);
            else if (group.kind(chunk) == WITH_ZEROS) from_codes<Anew, true>(at, group.lowest, step);
            else from_codes<Anew, false>(at, group.lowest, step);
        }
    }

private:
    static WEFT_INLINE __m256i words(const char* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }

    // As the number of its own bits.
    template <bool Zeros> static WEFT_INLINE __m256i number(__m256i own, __m256i lowest) {
        if (!Zeros) return _mm256_add_epi16(own, lowest);
        // One less than 0, or than the bits of -0, has ones at the four highest bits of the exponent, which are all of
        // `lowest`.
        const __m256i less = _mm256_sub_epi16(own, _mm256_set1_epi16(1));
        return _mm256_or_si256(own, _mm256_andnot_si256(less, lowest));
    }
    static WEFT_INLINE __m256i some(__m256i bits, int16_t mask) { return _mm256_and_si256(bits, _mm256_set1_epi16(mask)); }

    // Pairs of bf16 of eight columns from 8 i on, out of four neighbours of the depth: the first two, or the `second` two.
    template <bool Zeros> static WEFT_INLINE __m256i take(const char* quad, bool second, int i, __m256i lowest) {
        if (!second || i < kEights / 2)
            return number<Zeros>(some(words(quad + (second ? 128 : 0) + 32 * i), int16_t(kOwnBits)), lowest);
        quad += 32 * (i - kEights / 2);
        const __m256i third = words(quad + 128);
        const __m256i exponent = some(_mm256_srli_epi16(words(quad), kLentFrom - 7), 0x0780);
        const __m256i high = some(_mm256_srli_epi16(words(quad + 64), kLentFrom - 3), 0x0078);
        const __m256i low = some(_mm256_srli_epi16(third, kLentFrom), 0x0007);
        const __m256i sign = some(_mm256_add_epi16(third, third), int16_t(0x8000));
        return number<Zeros>(_mm256_or_si256(_mm256_or_si256(exponent, high), _mm256_or_si256(low, sign)), lowest);
    }

    static __m256i base(int lowest) { return _mm256_set1_epi16(int16_t(lowest << 7)); }
    template <bool Anew, bool Zeros, class Step>
    WEFT_INLINE void from_codes(const char* at, int lowest_exponent, Step step) const {
        const __m256i lowest = base(lowest_exponent);
#pragma GCC unroll 8
        for (int j = 0; j < kSteps; ++j) {
            fetch(at, j);
            const char* const quad = at + j / 2 * kQuadBytes;
            step([&](int i, auto which) WEFT_LAMBDA_INLINE {
                constexpr bool anew = Anew && decltype(which)::value;
                return one_of(take<Zeros>(place<anew>(quad), j % 2, i, lowest), which);
            });
        }
    }

    // With each step a line or two.
    WEFT_INLINE void fetch(const char* chunk, int j) const {
        constexpr int kLines = kChunkBytes / 64;
        if (!fetches_) return;
#pragma GCC unroll 2
        for (int line = kLines * j / kSteps; line < kLines * (j + 1) / kSteps; ++line)
            __builtin_prefetch(chunk + kSoon + 64 * line, 0, 2);
    }

    // With far numbers, or not whole.
    template <class Step, class Last> WEFT_INLINE void from_laid(int chunk, int depth, Step step, Last last) const {
        __m256i laid[kSteps][kEights];
        lay(chunk, laid);
        const int steps = std::min(depth, kChunk) / 2;
        auto of = [&](int j) { return [&laid, j](int i, auto which) WEFT_LAMBDA_INLINE { return one_of(laid[j][i], which); }; };
#pragma GCC unroll 1
        for (int j = 0; j < steps; ++j) {
            fetch(codes_ + int64_t(chunk) * kChunkBytes, j);
            step(of(j));
        }
        if (depth < kChunk && depth % 2) last(of(steps));
    }

    void lay(int chunk, __m256i (&laid)[kSteps][kEights]) const {
        const Bf16In12BitsGroup& group = groups_[chunk / (kGroup / kChunk)];
        const char* const at = codes_ + int64_t(chunk) * kChunkBytes;
        if (has_zeros_near(group.lowest)) lay_codes<true>(at, base(group.lowest), laid);
        else lay_codes<false>(at, base(group.lowest), laid);
        put_far(group, far_, chunk, reinterpret_cast<uint16_t*>(laid));
    }

    template <bool Zeros> static void lay_codes(const char* at, __m256i lowest, __m256i (&laid)[kSteps][kEights]) {
        for (int j = 0; j < kSteps; ++j)
            for (int i = 0; i < kEights; ++i) laid[j][i] = take<Zeros>(at + j / 2 * kQuadBytes, j % 2, i, lowest);
    }

    bool fetches_;
    const char* codes_;
    const Bf16In12BitsGroup* groups_;
    const FarNumber* far_;
};

// Codes of 4 or 8 bits. Numbers of W_INT8 are codes times kCodeUnit, without their scale.
template <int Kind, bool Mixed = false> class FloatsOfCodes {
public:
    static constexpr bool kPaired = false, kMixed = Mixed;
    static_assert(!Mixed || !grouped(Kind), "scales are in the order of columns");

    FloatsOfCodes(const Weight& w, int pair, bool fetches) : fetches_(fetches), codes_(pair_data(w, pair)) {
        const int64_t numbers = int64_t(pair) * ceil_div(w.depth, kGroup) * kPair;
        if (kGrouped) scale_ = static_cast<const uint16_t*>(w.scale) + numbers;
        if (Kind != W_INT4) return;
        if (w.offset) offset_ = static_cast<const uint16_t*>(w.offset) + numbers;
        short_ = w.scale16;
        alignas(16) uint8_t high[16], low[16];
        for (int code = 0; code < 16; ++code) {
            const uint16_t bits = static_cast<const bf16*>(w.table)[code].bits;
            high[code] = uint8_t(bits >> 8), low[code] = uint8_t(bits);
        }
        high_ = twice(high), low_ = twice(low);
    }

    template <bool Anew, class Step, class Last> WEFT_INLINE void each_step(int from, int depth, Step step, Last last) const {
        for (int group = from / kGroup; depth > 0; ++group, depth -= kGroup) {
            const Scales scales = scales_of(group);
            for (int k = 0; k < std::min(depth, kGroup); k += kChunk) {
                const Chunk chunk(codes_ + int64_t(group * (kGroup / kChunk) + k / kChunk) * kChunkBytes, fetches_);
                const int steps = std::min(kChunk, depth - k) / 2;
                auto of = [&](int j) WEFT_LAMBDA_INLINE {
                    return [this, &chunk, &scales, j](int i, auto which)
                               WEFT_LAMBDA_INLINE { return number(chunk.words[i][which.value], j, i, scales); };
                };
                if (__builtin_expect(steps == kChunk / 2, 1)) {
#pragma GCC unroll 8
                    for (int j = 0; j < kChunk / 2; ++j) step(of(j));
                    continue;
                }
                for (int j = 0; j < steps; ++j) step(of(j));
                if (depth % 2) last(of(steps));
            }
        }
    }

private:
    static constexpr bool kGrouped = grouped(Kind);
    static constexpr int kChunk = chunk_of(Kind), kChunkBytes = kPair * 8;

    struct Scales {  // of a group; for W_INT8 nothing
        Vec<float> scale[kEights], offset[kEights];
    };
    // Words of eight columns: of first neighbours, and of second ones.
    struct Chunk {
        __m256i words[kEights][2];

        WEFT_INLINE Chunk(const char* at, bool fetches) {
            for (int line = 0; line < kChunkBytes && fetches; line += 64) __builtin_prefetch(at + kSoon + line, 0, 2);
#pragma GCC unroll 4
            for (int i = 0; i < kEights; ++i, at += 64) {
                const auto* pair = reinterpret_cast<const __m256i*>(at);
                const __m256i a = _mm256_loadu_si256(pair), b = _mm256_loadu_si256(pair + 1);
                words[i][0] = in_order(mixed_first(a, b)), words[i][1] = in_order(mixed_second(a, b));
            }
        }
        static WEFT_INLINE __m256i in_order(__m256i words) { return Mixed ? words : mixed(words); }
    };

    static __m256i twice(const uint8_t* sixteen) {
        return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(sixteen)));
    }

    WEFT_INLINE Scales scales_of(int group) const {
        Scales found;
        if constexpr (!kGrouped) return found;
#pragma GCC unroll 4
        for (int i = 0; i < kEights; ++i) {
            const int at = group * kPair + 8 * i;
            if (Kind == W_INT4 && short_) {
                const ShortNumbers columns(load_halves(scale_ + at));
                found.scale[i] = columns.scale, found.offset[i] = columns.offset();
                continue;
            }
            found.scale[i] = widen(load_halves(scale_ + at)) * (Kind == W_INT4 ? 1.0f : 1.0f / kCodeUnit);
            found.offset[i] = Kind == W_INT4 && offset_ ? widen(load_halves(offset_ + at)) : Vec<float>{};
        }
        return found;
    }

    // Codes have 8 bits at most and scales 11: products are exact, and one rounding is left.
    WEFT_INLINE __m256 number(__m256i words, int j, int i, const Scales& scales) const {
        if constexpr (Kind == W_INT8) return of_byte(words, j);
        else if constexpr (Kind == W_INT8G) return (__m256)near_bf16((Vec<float>)of_byte(words, j) * scales.scale[i]);
        else return (__m256)near_bf16(fused((Vec<float>)of_nibble(words, j), scales.scale[i], scales.offset[i]));
    }
    // Byte `j` of each word times kCodeUnit.
    static WEFT_INLINE __m256 of_byte(__m256i words, int j) {
        return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(words, byte_to(j, 0x00808080)));
    }
    // Value of nibble `j` of each word: a bf16 number, looked up as two separate bytes (pshufb).
    WEFT_INLINE __m256 of_nibble(__m256i words, int j) const {
        const __m256i codes = _mm256_and_si256(j % 2 ? _mm256_srli_epi32(words, 4) : words, _mm256_set1_epi8(15));
        const __m256i high = _mm256_shuffle_epi8(_mm256_shuffle_epi8(high_, codes), byte_to(j / 2, 0x00808080));
        const __m256i low = _mm256_shuffle_epi8(_mm256_shuffle_epi8(low_, codes), byte_to(j / 2, int(0x80008080)));
        return _mm256_castsi256_ps(_mm256_or_si256(high, low));
    }
    // Moves byte `j` of each word to where `first` has 0, zeros elsewhere.
    static WEFT_INLINE __m256i byte_to(int j, int first) {
        const int place = first == 0x00808080 ? 24 : 16;
        const __m256i words = _mm256_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12);
        return _mm256_add_epi32(_mm256_set1_epi32(first + (j << place)), _mm256_slli_epi32(words, place));
    }

    bool fetches_;
    const char* codes_;
    const uint16_t* scale_ = nullptr;
    const uint16_t* offset_ = nullptr;
    bool short_ = false;
    __m256i high_{}, low_{};
};

// Calls f(numbers of the weight's kind and `pair`); `Mixed`: columns may be.
template <bool Mixed, class F> WEFT_INLINE void with_floats(const Weight& w, int pair, bool fetches, F f) {
    if (w.kind == W_BF16) f(FloatsOfHalves(w, pair, fetches));
    else if (w.kind == W_BF16_12BIT) f(FloatsOfBf16In12Bits(w, pair, fetches));
    else if (w.kind == W_INT8) f(FloatsOfCodes<W_INT8, Mixed>(w, pair, fetches));
    else if (w.kind == W_INT8G) f(FloatsOfCodes<W_INT8G>(w, pair, fetches));
    else f(FloatsOfCodes<W_INT4>(w, pair, fetches));
}

}  // namespace weft

#endif
