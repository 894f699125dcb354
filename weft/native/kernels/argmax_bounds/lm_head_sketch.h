// A second copy of lm_head in 8 or 4 bits a value, from which upper bounds on logits are computed: layout and packing.
//
// The mean over all columns is subtracted at each depth; depths are ordered by how large activations are there. Each group
// of 64 depths has a step for each column:
//   w = mean + step * (q + e), |q| <= 127, |e| <= 1/2, step = unit of the column * 1 to 255
// A fine value is 128 + q. Its high four bits alone are the coarse value, which stands for the middle of the 16 fine values
// that share them; their distance from it, over a group, is stored next to the step.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <utility>
#include <vector>

#include "kernels/gemm/gemm_panel.h"
#include "runtime/pool.h"

namespace weft {

constexpr int kBoundGroup = 64;       // of the depth, with a step a column
constexpr float kApartUnit = 3.5;     // parts of a step that distances count: a group's numbers are at most 8 * 8 steps apart
constexpr int kCodeLine = kPair * 4;  // bytes: fine codes of four of the depth, coarse ones of eight

inline int bound_groups(int depth) { return ceil_div(depth, kBoundGroup); }

// A BoundStream holds the quantized matrix in the order in which it is read: for each pair of column panels its groups, the
// first `fine` of them in fine values; in each group the values, 32 steps and 32 distances; after the groups 32 units, fp32.
//   fine    [depth / 4][32 columns][4]
//   coarse  [depth / 8][32 columns][4], the first four depths in the low half of a byte, the next four in the high half
// The depth is padded with zeros.
inline constexpr int64_t bound_codes_bytes(bool is_fine) { return kBoundGroup / (is_fine ? 4 : 8) * kCodeLine; }
inline constexpr int64_t bound_group_bytes(bool is_fine) { return bound_codes_bytes(is_fine) + 2 * kPair; }
inline int64_t place_of(const BoundStream& s, int g) {
    return std::min(g, s.fine) * bound_group_bytes(true) + std::max(0, g - s.fine) * bound_group_bytes(false);
}
inline int64_t bound_pair_bytes(const BoundStream& s) { return place_of(s, s.groups) + kPair * int64_t(sizeof(float)); }
inline uint8_t* pair_of(const BoundStream& s, int pair) { return s.data + pair * bound_pair_bytes(s); }
inline float* units_of(const BoundStream& s, int pair) {
    return reinterpret_cast<float*>(pair_of(s, pair) + place_of(s, s.groups));
}

// A pair's columns, number by number as products take them: [depth][32], fp32.
inline void columns_of_pair(const Weight& w, int pair, float* panel) {
    if (w.int8_activations && grouped(w.kind)) {  // where numbers are not rounded to bf16
        for (int k = 0; k < w.depth; ++k)
            for (int c = 0; c < kPair; ++c) {
                const int code = code_of(w, pair, c, k);
                const float number = w.kind == W_INT4 ? widen(static_cast<const bf16*>(w.table)[code]) : float(code);
                const GroupNumber group(w, pair, c, k);
                panel[k * kPair + c] = number * group.scale + group.offset;
            }
        return;
    }
    unpack<InF32>(w, pair, 0, w.depth, panel);
    if (w.kind != W_INT8) return;
    const float* scales = static_cast<const float*>(w.scale) + pair * kPair;
    for (int k = 0; k < w.depth; ++k)
        for (int c = 0; c < kPair; ++c) panel[k * kPair + c] *= scales[c] / kCodeUnit;
}

// The mean of each place in the depth, of some columns: any number would do.
inline void means_of(const Weight& w, float* means) {
    const int pairs = pairs_of(w), step = ceil_div(pairs, 64);
    std::vector<float> panel(int64_t(w.depth) * kPair);
    std::vector<double> sums(w.depth);
    int columns = 0;
    for (int pair = 0; pair < pairs; pair += step) {
        columns_of_pair(w, pair, panel.data());
        for (int k = 0; k < w.depth; ++k)
            for (int c = 0; c < kPair; ++c) sums[k] += panel[k * kPair + c];
        columns += std::min(kPair, w.columns - pair * kPair);
    }
    for (int k = 0; k < w.depth; ++k) means[k] = float(sums[k] / columns);
}

// Puts one pair's columns into codes.
class PairCoder {
public:
    PairCoder(const Weight& w, const ArgmaxPruner& to)
        : w_(w), to_(to), groups_(bound_groups(w.depth)), panel_(int64_t(w.depth) * kPair), largest_(groups_) {}

    // False where a number is none or infinite. raise(group, largest square of a column's codes, largest number).
    template <class Raise> bool run(int pair, Raise raise) {
        columns_of_pair(w_, pair, panel_.data());
        if (!find_units()) return false;
        for (int g = 0; g < groups_; ++g) code_group(g), put(pair, g), raise(g, square_, 127.5f * most_of(step_));
        for (const BoundStream& stream : {to_.few, to_.many})
            if (stream.data) std::copy_n(units_.of, kPair, units_of(stream, pair));
        return true;
    }

private:
    static constexpr int kVectors = kPair / kWidth<float>;
    static constexpr float kMost = FLT_MAX / 4;
    struct Columns {
        alignas(64) float of[kPair] = {};

        float* vector(int v) { return of + v * kWidth<float>; }
    };
    static float most_of(const Columns& x) { return *std::max_element(x.of, x.of + kPair); }

    int places(int g) const { return std::min(kBoundGroup, w_.depth - g * kBoundGroup); }
    // Place i of a group less the mean, of a vector of columns.
    Vec<float> numbers(int g, int i, int v) const {
        const int k = to_.order[g * kBoundGroup + i];
        return load(panel_.data() + k * kPair + v * kWidth<float>) - splat(to_.means[k]);
    }

    bool find_units() {
        Columns highest;
        for (int g = 0; g < groups_; ++g)
            for (int v = 0; v < kVectors; ++v) {
                Vec<float> most{};
                for (int i = 0; i < places(g); ++i) {
                    const Vec<float> x = numbers(g, i, v), size = (Vec<float>)((VecInt<float>)x & 0x7fffffff);
                    most = most >= size ? most : size;  // what is no number stays
                }
                store(largest_[g].vector(v), most);
                const Vec<float> before = load(highest.vector(v));
                store(highest.vector(v), before >= most ? before : most);
            }
        bool finite = true;
        for (int c = 0; c < kPair; ++c) {
            finite &= highest.of[c] <= kMost;
            units_.of[c] = std::max(highest.of[c], 1e-28f) * (1.00001f / (127.0f * 255.0f));
        }
        return finite;
    }

    void code_group(int g) {
        Columns fine, coarse, apart;
        for (int c = 0; c < kPair; ++c) {
            steps_[c] = uint8_t(std::min(255, int(largest_[g].of[c] / (127.0f * units_.of[c])) + 1));
            step_.of[c] = float(steps_[c]) * units_.of[c];
        }
        for (int v = 0; v < kVectors; ++v) {
            const Vec<float> inverse = 1.0f / load(step_.vector(v));
            Vec<float> of_fine{}, of_coarse{}, of_apart{};
            for (int i = 0; i < kBoundGroup; ++i) {
                VecInt<float> code = VecInt<float>{} + 128;
                if (i < places(g)) {
                    const Vec<float> wanted = numbers(g, i, v) * inverse;
                    code += nearest_integers(wanted);
                    const Vec<float> q = __builtin_convertvector(code - 128, Vec<float>);
                    const Vec<float> middle = __builtin_convertvector(code & 0xf0, Vec<float>) - 120.5f, away = wanted - middle;
                    of_fine += q * q, of_coarse += middle * middle, of_apart += away * away;
                }
                std::memcpy(codes_[i] + v * kWidth<float>, &code, sizeof code);
            }
            store(fine.vector(v), of_fine), store(coarse.vector(v), of_coarse), store(apart.vector(v), of_apart);
        }
        square_ = std::max(most_of(fine), most_of(coarse));
        for (int c = 0; c < kPair; ++c) distances_[c] = uint8_t(std::ceil(std::sqrt(apart.of[c]) * (1.0001f * kApartUnit)));
    }

    void put(int pair, int g) const {
        for (const BoundStream& stream : {to_.few, to_.many}) {
            if (!stream.data) continue;
            const bool is_fine = g < stream.fine;
            uint8_t* const to = pair_of(stream, pair) + place_of(stream, g);
            is_fine ? put_fine(to) : put_coarse(to);
            std::copy_n(steps_, kPair, to + bound_codes_bytes(is_fine));
            std::copy_n(distances_, kPair, to + bound_codes_bytes(is_fine) + kPair);
        }
    }
    void put_fine(uint8_t* to) const {
        for (int k = 0; k < kBoundGroup; k += 4)
            for (int c = 0; c < kPair; ++c)
                for (int i = 0; i < 4; ++i) *to++ = uint8_t(codes_[k + i][c]);
    }
    void put_coarse(uint8_t* to) const {
        for (int k = 0; k < kBoundGroup; k += 8)
            for (int c = 0; c < kPair; ++c)
                for (int i = 0; i < 4; ++i) *to++ = uint8_t(codes_[k + i][c] >> 4 | (codes_[k + 4 + i][c] & 0xf0));
    }

    const Weight& w_;
    const ArgmaxPruner& to_;
    const int groups_;
    std::vector<float> panel_;
    std::vector<Columns> largest_;  // of each group
    Columns units_, step_;
    alignas(64) int32_t codes_[kBoundGroup][kPair];
    uint8_t steps_[kPair], distances_[kPair];
    float square_ = 0;
};

// Where `order` is given all else is made. False where a number of the matrix is none or infinite.
inline bool pack_for_bounds(const Weight& weight, const ArgmaxPruner& to, Pool* pool) {
    const int groups = bound_groups(weight.depth);
    std::vector<std::atomic<float>> squares(groups), most(groups);
    std::atomic<bool> finite{true};
    auto raise = [](std::atomic<float>& most, float found) {
        for (float seen = most.load(); found > seen && !most.compare_exchange_weak(seen, found);) {}
    };
    means_of(weight, to.means);
    parallel_for(pool, pairs_of(weight), [&](int pair) {
        PairCoder coder(weight, to);
        if (!coder.run(pair, [&](int g, float square, float number) { raise(squares[g], square), raise(most[g], number); }))
            finite = false;
    });
    for (int g = 0; g < groups; ++g) to.lengths[g] = std::sqrt(squares[g]) * 1.0001f, to.most[g] = most[g];
    return finite;
}

}  // namespace weft
