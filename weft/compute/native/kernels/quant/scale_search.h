// Which short number suits a group of numbers best, as codes of 4 bits.
//
// Of the scale that spans the group and 0, and the next smaller and larger one, with each the zero that brings the middle of
// the span to code 7.5, and the ones beside it: the first of those that leave the smallest sum of squared differences. Sums
// are those of halves, folded, so that `weft.compute.quant.int4` finds the same.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/quant/weight.h"

namespace weft {

class ShortRounding {
public:
    // Of `count` numbers between `low` and `high`, which are NaN where one of them is; a short group is filled up with its
    // last.
    ShortRounding(const float* x, int count, float low, float high) {
        float all[kGroup];
        for (int k = 0; k < kGroup; ++k) all[k] = x[std::min(k, count - 1)];
        std::memcpy(x_, all, sizeof all);
        low = std::min(low, 0.0f), high = std::max(high, 0.0f);
        const int half = to_half((high - low) / 15), near = (half + 15 + (half >> 5 & 1)) >> 5;  // to nearest, ties to even
        const int span = half < kInfinite ? std::min(near, (kInfinite >> 5) - 1) : near;
        for (int bits : {span, std::max(span - 1, 0), span + 1}) {
            const Scale scale(uint16_t(bits << 5));
            const float zero = std::nearbyint(30 - 2 * ((low + high) * scale.inverse));
            for (float own : {zero, zero - 1, zero + 1}) attempt(scale, whole(own));
        }
    }

    ShortNumber best() const { return best_; }

private:
    static constexpr int kInfinite = 0x7c00;  // as a half

    using Lanes = Vec<float>;
    static constexpr int kVectors = kGroup / kWidth<float>;
    typedef float Half __attribute__((vector_size(32)));
    typedef float Quarter __attribute__((vector_size(16)));

    struct Scale {
        uint16_t half;
        float wide, inverse;

        explicit Scale(uint16_t half) : half(half), wide(from_half(half)), inverse(wide != 0 ? 1 / wide : 0) {}
    };

    static int whole(float zero) {
        return std::isnan(zero) ? 0 : int(std::min(std::max(zero, 0.0f), float(ShortNumber::kMostZero)));
    }

    void attempt(const Scale& scale, int zero) {
        const float found = squares(scale, scale.wide * (float(zero) * -ShortNumber::kZeroUnit));
        if (tried_ && !(found < squares_)) return;
        tried_ = true, squares_ = found, best_ = ShortNumber::of(scale.half, zero);
    }

    // Of the differences that are left.
    float squares(const Scale& scale, float offset) const {
        Lanes both[kVectors / 2];
#pragma GCC unroll 4
        for (int i = 0; i < kVectors / 2; ++i) {
            const Lanes first = left(x_[i], scale, offset), second = left(x_[i + kVectors / 2], scale, offset);
            both[i] = first * first + second * second;
        }
        const Quarter sums = folded<Quarter>(folded<Half>(both));
        return (sums[0] + sums[2]) + (sums[1] + sums[3]);
    }

    // What the codes of numbers leave.
    static Lanes left(const Lanes& x, const Scale& scale, float offset) {
        const Lanes none = {}, most = none + 15.0f;
        Lanes code = ((x - offset) * scale.inverse + kToInteger) - kToInteger;
        code = code < none ? none : code > most ? most : code;
        return x - (code * scale.wide + offset);
    }

    // The first half of the lanes plus the second.
    template <class To, class From> static To folded(const From& x) {
        To halves[2];
        std::memcpy(halves, &x, sizeof x);
        return halves[0] + halves[1];
    }

    Lanes x_[kVectors];
    ShortNumber best_{0};
    float squares_ = 0;
    bool tried_ = false;
};

}  // namespace weft
