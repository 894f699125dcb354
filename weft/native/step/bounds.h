// Bounds of logits by products of bytes. A matrix is kept once more in 8 bits a number, with a step for each column and 64
// of the depth, and rows are rounded to 8 bits a group; what rounding may have taken away is added. Knows no choice.
//
// With w = step * (q + e), |e| <= 1/2, and x = scale * (p + f) in each group:
//   w x <= step * scale * (q p + |x|_1 / (2 scale) + |q| |f|)
// by Cauchy and Schwarz in the last term, |q| being the largest of all columns. Where that weighs most f is rounded to 8 bits
// too, and multiplied, and only what is then left is bounded. So the bound of a column is a sum over groups of steps times
// scales times whole numbers, with what is added in the number that a sum of products begins with.
#pragma once

#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <utility>
#include <vector>

#include "elements.h"
#include "linear_tile.h"
#include "pool.h"
#include "rounded_rows.h"

namespace weft {

constexpr int kBoundGroup = 64;  // of the depth, with one step a column

// Numbers [pairs][depth / 4][32 columns][4] as 128 + number / step; depths are rounded up.
struct BoundCodes {
    uint8_t* codes;
    float* steps;           // [pairs, groups, 32 columns]
    float *lengths, *most;  // [groups] of all columns: the largest |q|, and the largest number
};

inline int bound_groups(int depth) { return ceil_div(depth, kBoundGroup); }
inline int bound_depth(int depth) { return ceil_div(depth, 4) * 4; }
inline int64_t bound_pair_bytes(int depth) { return int64_t(bound_depth(depth)) * kPair; }

// The step and the codes of 64 or fewer numbers of a column; codes lie four together, 128 bytes on. The sum of the squares
// of numbers / step, or -1 where a number is none or infinite.
inline int code_for_bounds(const float* w, int count, float* step, uint8_t* codes) {
    const float most = largest_magnitude(w, count);
    if (!(most <= FLT_MAX)) return -1;
    *step = std::max(most, 1e-30f) / 127.0f;
    int squares = 0;
    for (int k = 0; k < count; ++k) {
        const int code = std::max(-127, std::min(127, int(std::nearbyint(w[k] / *step))));
        codes[k / 4 * 4 * kPair + k % 4] = uint8_t(code + 128);
        squares += code * code;
    }
    return squares;
}

// False where a number of the matrix is none or infinite.
inline bool pack_for_bounds(const Weight& weight, const BoundCodes& to, Pool* pool) {
    const int groups = bound_groups(weight.depth);
    std::vector<std::atomic<int>> squares(groups);
    std::vector<std::atomic<float>> steps(groups);
    std::atomic<bool> finite{true};
    auto raise = [](auto& most, auto found) {
        for (auto seen = most.load(); found > seen && !most.compare_exchange_weak(seen, found);) {}
    };
    deal(pool, pairs_of(weight), [&](int pair) {
        uint8_t* const codes = to.codes + pair * bound_pair_bytes(weight.depth);
        std::memset(codes, 128, bound_pair_bytes(weight.depth));
        std::vector<float> row(weight.depth);
        for (int c = 0; c < std::min(kPair, weight.columns - pair * kPair); ++c) {
            gather_row(weight, pair * kPair + c, row.data());
            for (int g = 0; g < groups; ++g) {
                const int k = g * kBoundGroup;
                float* const step = to.steps + (int64_t(pair) * groups + g) * kPair + c;
                const int found = code_for_bounds(row.data() + k, std::min(kBoundGroup, weight.depth - k), step,
                                                  codes + int64_t(k) * kPair + c * 4);
                if (found < 0) finite = false;
                raise(squares[g], found), raise(steps[g], *step);
            }
        }
    });
    for (int g = 0; g < groups; ++g) to.lengths[g] = std::sqrt(float(squares[g])) * 1.0001f, to.most[g] = steps[g] * 127.5f;
    return finite;
}

#if defined(__AVX512VNNI__)

struct BoundedGroup {
    float scale;
    int32_t start;  // what the sum of products begins with: what takes the zero of the matrix's codes away, and the bound
};

// A few rows as products of bounds take them, part by part: a group of the depth, or what rounding left of one. What the rows
// have of a place in the depth lies together.
struct BoundedRows {
    const int32_t* group_of;     // [parts]
    const BoundedGroup* groups;  // [parts, rows]
    const int8_t* codes;         // [parts, 64 / 4, rows, 4]
    int depth, parts, once;      // the first `once` parts are all groups
};

// Rounds a block of rows, in memory that it keeps.
class BoundedBlock {
public:
    // Of `count` rows of `depth` from `x` on. `few`: so few that reading the matrix takes longer than multiplying more of what
    // rounding left. False where a number is none or infinite, or so large that a sum might be.
    bool round(const bf16* x, int64_t stride, int count, int depth, const BoundCodes& with, bool few) {
        count_ = count, depth_ = depth;
        const int groups = bound_groups(depth);
        norms_.resize(size_t(groups) * count), weighs_.assign(groups, 0);
        for (int r = 0; r < count; ++r) {
            float reach = 0;
            for (int g = 0; g < groups; ++g) {
                Norms& of = norms_[g * count + r] = norms(x + r * stride + g * kBoundGroup, width(g));
                reach += of.sum * of.most / 127.0f * with.most[g];
                weighs_[g] += of.most * with.lengths[g] * of.rest;
            }
            if (!(reach < 1e37f)) return false;
        }
        take_parts(groups, ceil_div(groups, few ? 4 : 16));
        made_.resize(group_of_.size() * count), codes_.assign(group_of_.size() * count * kBoundGroup, 0);
        for (size_t part = 0; part < group_of_.size(); ++part)
            for (int r = 0; r < count; ++r)
                round_part(x + r * stride + group_of_[part] * kBoundGroup, with.lengths, int(part), int(part) >= groups, r);
        return true;
    }
    BoundedRows rows() const {
        return {group_of_.data(), made_.data(), codes_.data(), depth_, int(group_of_.size()), int(twice_.size())};
    }

private:
    struct Norms {
        float most, sum, rest;  // |x|_inf, and |x|_1 and |f| in scales
    };

    int width(int g) const { return std::min(kBoundGroup, depth_ - g * kBoundGroup); }

    static Norms norms(const bf16* x, int count) {
        const float most = std::max(largest_magnitude(x, count), 1e-28f), inverse = 127.0f / most;
        float sum = 0, rest = 0;
        for (int k = 0; k < count; ++k) {
            const float scaled = widen(x[k]) * inverse, left = scaled - std::nearbyint(scaled);
            sum += std::fabs(scaled), rest += left * left;
        }
        return {most, sum, std::sqrt(rest)};
    }

    // All groups, and behind them once more those `more` of which rounding left most.
    void take_parts(int groups, int more) {
        group_of_.resize(groups + more);
        for (int g = 0; g < groups; ++g) group_of_[g] = g;
        std::vector<int32_t> order(group_of_.begin(), group_of_.begin() + groups);
        std::partial_sort(order.begin(), order.begin() + more, order.end(),
                          [&](int a, int b) { return weighs_[a] > weighs_[b]; });
        std::copy_n(order.begin(), more, group_of_.begin() + groups);
        twice_.assign(groups, false);
        for (int i = 0; i < more; ++i) twice_[order[i]] = true;
    }

    void round_part(const bf16* x, const float* lengths, int part, bool is_rest, int r) {
        const int g = group_of_[part];
        const Norms& of = norms_[g * count_ + r];
        const float inverse = 127.0f / of.most, finer = is_rest ? 254.0f : 1.0f;  // what is left is at most 1/2
        int8_t* const codes = codes_.data() + (size_t(part) * kBoundGroup * count_ + 4 * r);
        float rest = 0;
        int total = 0;
        for (int k = 0; k < width(g); ++k) {
            float scaled = widen(x[k]) * inverse;
            if (is_rest) scaled = (scaled - std::nearbyint(scaled)) * finer;
            const float code = std::nearbyint(scaled);
            codes[k / 4 * 4 * count_ + k % 4] = int8_t(code);
            rest += (scaled - code) * (scaled - code), total += int(code);
        }
        // the roundings of sums, here and in fp32 of all numbers, are far below a unit in the last place for each of the depth
        const float slack = 127.0f * float(depth_ + 64) * FLT_EPSILON;
        float bound = is_rest ? 0 : of.sum * (0.5f + slack);
        if (is_rest || !twice_[g]) bound += lengths[g] * std::sqrt(rest);
        made_[part * count_ + r] = {of.most / (127.0f * finer), int(bound * 1.001f) + 1 - 128 * total};
    }

    int count_ = 0, depth_ = 0;
    std::vector<Norms> norms_;   // [groups, rows]
    std::vector<float> weighs_;  // [groups]
    std::vector<bool> twice_;    // [groups]
    std::vector<int32_t> group_of_;
    std::vector<BoundedGroup> made_;
    std::vector<int8_t> codes_;
};

// Bounds of R rows and a pair's columns; `lines` of `ahead` are fetched with every four of the depth.
template <int R>
inline void bounds_of(const BoundedRows& rows, const uint8_t* pair, const float* steps, const uint8_t* ahead, int lines,
                      Vec<float> bounds[][2]) {
    for (int r = 0; r < R; ++r) bounds[r][0] = bounds[r][1] = Vec<float>{};
    const BoundedGroup* group = rows.groups;
    for (int part = 0; part < rows.parts; ++part, group += R) {
        const int g = rows.group_of[part], first = g * kBoundGroup;
        const uint8_t* codes = pair + int64_t(first) * kPair;
        const int8_t* x = rows.codes + size_t(part) * kBoundGroup * R;
        __m512i sums[R][2];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) sums[r][0] = sums[r][1] = _mm512_set1_epi32(group[r].start);
        int left = std::min(rows.depth - first, kBoundGroup);
        if (part == rows.once) lines = 0;
        do {  // at least once, which spares copies of sums
            const __m512i low = _mm512_loadu_si512(codes), high = _mm512_loadu_si512(codes + 64);
            for (int i = 0; i < lines; ++i, ahead += 64) _mm_prefetch(ahead, _MM_HINT_T0);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                int four;
                std::memcpy(&four, x + 4 * r, 4);
                const __m512i both = _mm512_set1_epi32(four);
                // as an intrinsic it is given more registers than there are
                asm("vpdpbusd %2, %1, %0" : "+v"(sums[r][0]) : "v"(low), "v"(both));
                asm("vpdpbusd %2, %1, %0" : "+v"(sums[r][1]) : "v"(high), "v"(both));
            }
            left -= 4, codes += 4 * kPair, x += 4 * R;
        } while (left > 0);
        const Vec<float> step[2] = {load(steps + g * kPair), load(steps + g * kPair + 16)};
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const Vec<float> scale = splat(group[r].scale);
            bounds[r][0] = fused((Vec<float>)_mm512_cvtepi32_ps(sums[r][0]), step[0] * scale, bounds[r][0]);
            bounds[r][1] = fused((Vec<float>)_mm512_cvtepi32_ps(sums[r][1]), step[1] * scale, bounds[r][1]);
        }
    }
}

using BoundsOf = void (*)(const BoundedRows&, const uint8_t*, const float*, const uint8_t*, int, Vec<float>[][2]);
template <size_t... R> constexpr std::array<BoundsOf, sizeof...(R)> bounds_of_rows(std::index_sequence<R...>) {
    return {bounds_of<int(R) + 1>...};
}

#endif

}  // namespace weft
