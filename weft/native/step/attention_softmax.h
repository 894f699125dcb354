// What becomes of a chunk's scores: weights of one row. Knows no page and no tile.
#pragma once

#include <string.h>

#include <algorithm>

#include "attention_pairs.h"

namespace weft {

constexpr float kHidden = -1e30f;  // a score that cannot be seen; finite, so that differences are numbers

// Keeps the lanes [begin, end) of the scores at s.
WEFT_INLINE void hide(float* s, int begin, int end) {
    VecInt<float> lane;
    for (int j = 0; j < kLanes; ++j) lane[j] = j;
    store(s, (lane >= begin) & (lane < end) ? load(s) : splat(kHidden));
}

// Of x and y; y where x is not a number. Then the largest lane and the sum of all.
#if defined(__AVX512F__)
WEFT_INLINE Vec<float> larger(Vec<float> x, Vec<float> y) { return (Vec<float>)_mm512_max_ps((__m512)x, (__m512)y); }
WEFT_INLINE float highest_of(Vec<float> x) { return _mm512_reduce_max_ps((__m512)x); }
WEFT_INLINE float sum_of(Vec<float> x) { return _mm512_reduce_add_ps((__m512)x); }
#else
WEFT_INLINE Vec<float> larger(Vec<float> x, Vec<float> y) { return x > y ? x : y; }
WEFT_INLINE float highest_of(Vec<float> x) { return largest<float>(x); }
WEFT_INLINE float sum_of(Vec<float> x) { return sum<float>(x); }
#endif

// The scores [from, read) of a row become bf16 weights, of which [begin, end) can be seen; their peak (a power of two) and
// their sum go to its piece.
inline void weights_of_scores(float* s, RowNumber* w, int from, int read, int begin, int end, float scale, float* piece) {
    constexpr int kWhole = kHasAmx ? 2 * kLanes : kLanes;  // weights that are read together
    const int to = (read + kWhole - 1) / kWhole * kWhole;
    if (begin >= end) {
        memset(w + from, 0, (to - from) * sizeof(RowNumber));
        piece[0] = kHidden, piece[1] = 0;
        return;
    }
    for (int j = from; j < begin; j += kLanes) hide(s + j, begin - j, kLanes);
    for (int j = end / kLanes * kLanes; j < to; j += kLanes) hide(s + j, 0, end - j);
    Vec<float> highest[2] = {splat(kHidden), splat(kHidden)};
    int i = from;
    for (; i + 2 * kLanes <= to; i += 2 * kLanes)
        for (int j = 0; j < 2; ++j) {
            const Vec<float> x = load(s + i + j * kLanes);
            highest[j] = larger(x, highest[j]);
        }
    if (i < to) {
        const Vec<float> x = load(s + i);
        highest[0] = larger(x, highest[0]);
    }
    const float peak = piece[0] = highest_of(larger(highest[0], highest[1])) * scale;
    const Vec<float> level = splat(-peak), times = splat(scale);
    Vec<float> sums[2] = {};
    for (i = from; i + 2 * kLanes <= to; i += 2 * kLanes) {
        const Vec<float> x = exp2_near(fused(load(s + i), times, level));
        const Vec<float> y = exp2_near(fused(load(s + i + kLanes), times, level));
        sums[0] += x, sums[1] += y;
        put_numbers(w + i, x), put_numbers(w + i + kLanes, y);
    }
    if (i < to) {
        const Vec<float> x = exp2_near(fused(load(s + i), times, level));
        sums[0] += x;
        put_numbers(w + i, x);
    }
    piece[1] = sum_of(sums[0] + sums[1]);
}

}  // namespace weft
