// Numbers of W_BF16_12BIT out of their codes, 64 at a time: two neighbours of the depth for 32 columns, as pairs of bf16.
// AVX-512 only.
#pragma once

#include "kernels/quant/lossless_bf16.h"
#include "kernels/quant/dequant_avx512.h"

#if defined(__AVX512F__)

namespace weft {

// As of other kinds, but a step's values are two vectors of bf16 pairs, of columns 0 to 15 and 16 to 31.
template <bool Apart> class CodesOfPair<W_BF16_12BIT, Apart> {
public:
    static constexpr bool kGrouped = true;
    static constexpr int kChunk = kBf16In12BitsChunk, kSteps = kChunk / 2, kChunkBytes = kChunk / 4 * kQuadBytes;

    CodesOfPair(const Weight& w, int pair)
        : codes_(pair_data(w, pair)), groups_(static_cast<const Bf16In12BitsGroup*>(w.scale) + bf16_12bit_group(w, pair, 0)),
          far_(static_cast<const FarNumber*>(w.offset)) {}

    // What is soon taken, when `chunk` is.
    WEFT_INLINE const char* soon(int chunk) const { return codes_ + kSoon + int64_t(chunk) * kChunkBytes; }

    template <class Step, class Chunk> WEFT_INLINE void each_step(int from, int depth, Step step, Chunk begin) const {
        for (int chunk = from / kChunk; depth > 0; ++chunk, depth -= kChunk) {
            const Bf16In12BitsGroup& group = groups_[chunk / (kGroup / kChunk)];
            begin(chunk);
            if (__builtin_expect(depth < kChunk, 0) || group.kind(chunk) == WITH_FAR) from_laid(chunk, depth, step);
            else if (group.kind(chunk) == WITH_ZEROS) from_codes<true>(chunk, group.lowest, step);
            else from_codes<false>(chunk, group.lowest, step);
        }
    }

private:
    // `mask` ? a : b, bit by bit.
    static WEFT_INLINE __m512i either(int16_t mask, __m512i a, __m512i b) {
        return _mm512_ternarylogic_epi32(a, b, _mm512_set1_epi16(mask), 0xe4);
    }

    // As the number of `bits`.
    template <bool Zeros> static WEFT_INLINE __m512i number(__m512i bits, __m512i lowest) {
        const __m512i own = _mm512_and_si512(bits, _mm512_set1_epi16(int16_t(kOwnBits)));
        if (!Zeros) return _mm512_add_epi16(own, lowest);
        // One less than 0, or than the bits of -0, has ones at the four highest bits of the exponent, which are all of
        // `lowest`.
        const __m512i less = _mm512_sub_epi16(own, _mm512_set1_epi16(1));
        return _mm512_ternarylogic_epi32(own, less, lowest, 0xf2);  // a | (~b & c)
    }

    // Of four neighbours of the depth the first two, or the `second` two. Shifts and masks, which wait for products, are few
    // or none; adding and choosing bits is done anywhere.
    template <bool Zeros> static WEFT_INLINE void take(const char* quad, bool second, __m512i lowest, __m512i (&values)[2]) {
        auto words = [&](int i) WEFT_LAMBDA_INLINE { return _mm512_loadu_si512(quad + 64 * i); };
        if (!second) {
            values[0] = number<Zeros>(words(0), lowest), values[1] = number<Zeros>(words(1), lowest);
            return;
        }
        quad = read_anew(quad);  // beside a tile's sums
        const __m512i third = words(2);
        const __m512i middle =
            either(0x0780, _mm512_srli_epi16(words(0), kLentFrom - 7), _mm512_srli_epi16(words(1), kLentFrom - 3));
        const __m512i ends = either(0x0007, _mm512_srli_epi16(third, kLentFrom), _mm512_add_epi16(third, third));
        values[0] = number<Zeros>(third, lowest), values[1] = number<Zeros>(either(0x07f8, middle, ends), lowest);
    }

    template <bool Zeros, class Step> WEFT_INLINE void from_codes(int chunk, int lowest_exponent, Step step) const {
        const __m512i lowest = _mm512_set1_epi16(int16_t(lowest_exponent << 7));
        const char* at = codes_ + int64_t(chunk) * kChunkBytes;
#pragma GCC unroll 8
        for (int j = 0; j < kSteps; ++j) {
            __m512i values[2];
            take<Zeros>(at + j / 2 * kQuadBytes, j % 2, lowest, values);
            step(j, values, std::false_type());
        }
    }

    // With far numbers, or not whole.
    template <class Step> WEFT_INLINE void from_laid(int chunk, int depth, Step step) const {
        __m512i laid[kSteps][2];
        lay(chunk, laid);
        if (depth >= kChunk) {
#pragma GCC unroll 8
            for (int j = 0; j < kSteps; ++j) step(j, laid[j], std::false_type());
            return;
        }
        for (int j = 0; j < depth / 2; ++j) step(j, laid[j], std::false_type());
        if (depth % 2 == 0) return;
        for (__m512i& both : laid[depth / 2]) both = _mm512_and_si512(both, _mm512_set1_epi32(0xffff));
        step(depth / 2, laid[depth / 2], std::true_type());
    }

    WEFT_INLINE void lay(int chunk, __m512i (&laid)[kSteps][2]) const {
        const Bf16In12BitsGroup& group = groups_[chunk / (kGroup / kChunk)];
        const __m512i lowest = _mm512_set1_epi16(int16_t(group.lowest << 7));
        const char* at = codes_ + int64_t(chunk) * kChunkBytes;
        if (has_zeros_near(group.lowest)) lay_codes<true>(at, lowest, laid);
        else lay_codes<false>(at, lowest, laid);
        put_far(group, far_, chunk, reinterpret_cast<uint16_t*>(laid));
    }

    template <bool Zeros> static WEFT_INLINE void lay_codes(const char* at, __m512i lowest, __m512i (&laid)[kSteps][2]) {
#pragma GCC unroll 1
        for (int j = 0; j < kSteps; j += 2, at += kQuadBytes) {
            take<Zeros>(at, false, lowest, laid[j]);
            take<Zeros>(at, true, lowest, laid[j + 1]);
        }
    }

    const char* codes_;
    const Bf16In12BitsGroup* groups_;
    const FarNumber* far_;
};

}  // namespace weft

#endif
