// Scales and offsets of groups in 16 bits, one or many at a time.
#pragma once

#include "kernels/common/fp16.h"

namespace weft {

// Scale and offset of a group in 16 bits: above, those of a fp16 scale without its sign and with 5 bits of fraction; below,
// 6 bits of a zero in quarters of a step, so that offset = - scale * zero / 4, exactly.
struct ShortNumber {
    static constexpr int kMostZero = 63, kScaleBits = 0x7fe0;  // of the half
    static constexpr float kZeroUnit = 0.25f;
    uint16_t word;

    static ShortNumber of(uint16_t half, int zero) { return {uint16_t((half & kScaleBits) << 1 | zero)}; }
    float scale() const { return from_half(word >> 1 & kScaleBits); }
    float offset() const { return scale() * (float(word & kMostZero) * -kZeroUnit); }
};

// Of neighbours in columns, as many as a vector has lanes: offset = zero * - kZeroUnit * scale.
struct ShortNumbers {
    Vec<float> scale, zero;

    explicit WEFT_INLINE ShortNumbers(Halves words)
        : scale(widen(words >> 1 & ShortNumber::kScaleBits)),
          zero(__builtin_convertvector(integers(words & ShortNumber::kMostZero), Vec<float>)) {}
    WEFT_INLINE Vec<float> offset() const { return zero * splat(-ShortNumber::kZeroUnit) * scale; }
};

}  // namespace weft
