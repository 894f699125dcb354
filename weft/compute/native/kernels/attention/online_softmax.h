// Online softmax of a chunk's scores, row by row, and the merge of chunks. A piece is a chunk's partial result for one row:
// [0] maximum, [1] sum of weights, and from [16] on the weighted sums of values.
#pragma once

#include <string.h>

#include <algorithm>

#include "kernels/attention/attention_bf16_pairs.h"

namespace weft {

constexpr float kHidden = -1e30f;  // a score that cannot be seen; finite, so that differences are numbers

// Keeps the lanes [begin, end) of the scores at s.
WEFT_INLINE void hide(float* s, int begin, int end) {
    VecInt<float> lane;
    for (int j = 0; j < kLanes; ++j) lane[j] = j;
    store(s, (lane >= begin) & (lane < end) ? load(s) : splat(kHidden));
}

// The sum of all lanes.
#if defined(__AVX512F__)
WEFT_INLINE float sum_of(Vec<float> x) { return _mm512_reduce_add_ps((__m512)x); }
#else
WEFT_INLINE float sum_of(Vec<float> x) { return sum<float>(x); }
#endif

// Of the scores [from, to) at s, whole vectors, [begin, end) can be seen: the others are hidden. Gives the highest.
inline float highest_score(float* s, int from, int to, int begin, int end) {
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
    return highest_of(larger(highest[0], highest[1]));
}

// w = 2^(s * scale - peak), rounded to bf16, over [from, to). Gives the sum of what was rounded.
inline float weights_below(float peak, const float* s, float scale, RowNumber* w, int from, int to) {
    const Vec<float> level = splat(-peak), times = splat(scale);
    Vec<float> sums[2] = {};
    int i = from;
    for (; i + 2 * kLanes <= to; i += 2 * kLanes) {
        const Vec<float> x = exp2_near(fused(load(s + i), times, level));
        const Vec<float> y = exp2_near(fused(load(s + i + kLanes), times, level));
        sums[0] += x, sums[1] += y;
        put_numbers(w + i, x, y);
    }
    if (i < to) {
        const Vec<float> x = exp2_near(fused(load(s + i), times, level));
        sums[0] += x;
        put_numbers(w + i, x);
    }
    return sum_of(sums[0] + sums[1]);
}

// The scores of a chunk's rows, `floats` of a row, and the weights that they become; their places may be the same.
struct ChunkScores {
    float* scores;
    RowNumber* weights;
    int64_t floats;
    int from, to;  // of each row: what is weighed, whole vectors
    float scale;

    // `read`: one past the last score.
    ChunkScores(float* s, RowNumber* w, int64_t floats, int from, int read, float scale)
        : scores(s), weights(w), floats(floats), from(from), to((read + kWhole - 1) / kWhole * kWhole), scale(scale) {}

    // The peak (a power of two) of row r, of which [begin, end) can be seen.
    float peak(int r, int begin, int end) const {
        if (begin >= end) return kHidden;
        return highest_score(scores + r * floats, from, to, begin, end) * scale;
    }

    // Makes its weights. Gives their sum.
    float weigh(int r, int begin, int end, float peak) const {
        RowNumber* const w = weights + r * floats;
        if (begin < end) return weights_below(peak, scores + r * floats, scale, w, from, to);
        memset(w + from, 0, (to - from) * sizeof(RowNumber));
        return 0;
    }

private:
    static constexpr int kWhole = kHasAmx ? 2 * kLanes : kLanes;  // weights that are read together
};

// Adds what a chunk gave to a row's sums over `dims` (whole vectors): both times 2^(own peak - common peak).
inline void add_piece(const float* piece, int dims, float& peak, float& total, float* out) {
    if (piece[1] == 0) return;  // it saw no key of this chunk
    const float higher = peak > piece[0] ? peak : piece[0];
    const Vec<float> keep = exp2_near(splat(peak - higher)), gain = exp2_near(splat(piece[0] - higher));
    total = total * keep[0] + piece[1] * gain[0];
    peak = higher;
    for (int d = 0; d < dims; d += kLanes) store(out + d, fused(load(out + d), keep, load(piece + 16 + d) * gain));
}

}  // namespace weft
