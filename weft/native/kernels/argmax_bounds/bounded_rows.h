// Activation rows quantized to int8 for GEMMs with lm_head_sketch.h, and the slack that makes these products upper bounds.
//
// With w = mean + step * (q + e) and a row's x = scale * (p + f) in each group, |f| <= 1/2:
//   w x = mean x + step * scale * (q p + e (p + f) + q f)
// where e (p + f) <= |p + f|_1 / 2 and q f <= |q| |f| (Cauchy-Schwarz), |q| being the largest of all columns. For coarse
// (4-bit) values q is 16 h - 120.5, h of four bits, and e (p + f) <= |e| |p + f|. So the bound of a column is a sum over
// groups of step * scale * integer; the slack is in the initial value of the integer sum. Where there are few rows, a second
// int8 row holds f, so that only the rounding error of f is left to bound.
#pragma once

#include "kernels/argmax_bounds/lm_head_sketch.h"
#include "kernels/quant/q8_activations.h"

namespace weft {

constexpr int kBoundVectors = kPair / kWidth<float>;  // of a pair's columns
// What products, where there are any, take away from fine codes before they multiply them; the rest of their zero is taken
// away from sums.
#if defined(__AVX512VNNI__)
constexpr int kFineTaken = 0;
#else
constexpr int kFineTaken = 128;
#endif

struct BoundedGroup {
    float scale;
    int32_t start;  // what the sum of products begins with: what takes the zero of codes away, and the bound
    float beside;   // what is added to it, times how far a column's numbers lie from their coarse codes
};

// A few rows as products of bounds take them. What they have of a place in the depth lies together.
struct BoundedRows {
    const BoundedGroup* groups;  // [groups, rows]
    const int8_t* codes;         // [groups, 64 / 8, rows, 8]
    const float* shifts;         // [rows]: what means bring
    int count;                   // the rest of row r, if there is any, is row `count / 2` + r
};

// Rows of an operand as products with a matrix take them, in the order of its bound codes.
class RowsInOrder {
public:
    RowsInOrder(const Operand& from, const Weight& weight, const ArgmaxPruner& codes)
        : from_(from), weight_(weight), order_(codes.order), row_(weight.depth), ordered_(weight.depth) {}

    // Valid until the next call.
    const float* row(int64_t row) {
        if (from_.dtype == BF16) take(row_of<const bf16>(from_, row));
        else take(row_of<const float>(from_, row));
        if (weight_.int8_activations && rounded(weight_.kind)) round();
        for (int k = 0; k < weight_.depth; ++k) ordered_[k] = row_[order_[k]];
        return ordered_.data();
    }

private:
    template <class S> void take(const S* x) {
        for (int k = 0; k < weight_.depth; ++k) row_[k] = widen(x[k]);
    }
    // As q8_activations.h does: the numbers that codes and scales stand for.
    void round() {
        for (int k = 0; k < weight_.depth; k += kGroup) {
            const int count = std::min(kGroup, weight_.depth - k);
            const RoundedScale of_codes(largest_magnitude(row_.data() + k, count));
            for (int i = k; i < k + count; ++i) row_[i] = std::nearbyint(row_[i] * of_codes.inverse) * of_codes.scale;
        }
    }

    const Operand& from_;
    const Weight& weight_;
    const int32_t* order_;
    std::vector<float> row_, ordered_;
};

// Rounds a block of rows, in memory that it keeps.
class BoundedBlock {
public:
    // `count` rows of `rows` from `first` on, for the stream `few` or `many`. False where a number is none or infinite, or
    // so large that a sum might be.
    bool round(RowsInOrder& rows, int64_t first, int count, int depth, const ArgmaxPruner& with, bool few) {
        count_ = count, depth_ = depth, groups_ = bound_groups(depth), rests_ = few, made_of_ = few ? 2 * count : count;
        fine_ = few ? with.few.fine : groups_;
        numbers_.assign(groups_ * kBoundGroup, 0), shifts_.assign(made_of_, 0);
        made_.resize(groups_ * made_of_), codes_.resize(size_t(groups_) * made_of_ * kBoundGroup);
        for (int r = 0; r < count; ++r) {
            std::copy_n(rows.row(first + r), depth, numbers_.begin());
            if (!round_row(r, with)) return false;
        }
        return true;
    }
    BoundedRows rows() const { return {made_.data(), codes_.data(), shifts_.data(), made_of_}; }

private:
    bool round_row(int r, const ArgmaxPruner& with) {
        float reach = 0;
        for (int g = 0; g < groups_; ++g) reach += round_group(r, g, with.lengths[g]) * with.most[g];
        double shift = 0, size = 0;
        for (int k = 0; k < depth_; ++k) {
            const double product = double(numbers_[k]) * with.means[with.order[k]];
            shift += product, size += std::fabs(product);
        }
        // roundings of fp32 in the sums of all numbers are far below a unit in the last place for each of the depth
        shifts_[r] = float(shift + size * double(depth_ + 64) * FLT_EPSILON);
        return reach + size < 1e37f;
    }

    // |x|_1 of the group.
    float round_group(int r, int g, float length) {
        const float* const x = numbers_.data() + g * kBoundGroup;
        const float most = std::max(largest_magnitude(x, kBoundGroup), 1e-28f), scale = most / 127.0f;
        float scaled[kBoundGroup], sum = 0, squares = 0;
        for (int k = 0; k < kBoundGroup; ++k) {
            scaled[k] = x[k] * (127.0f / most);
            sum += std::fabs(scaled[k]), squares += scaled[k] * scaled[k];
        }
        const bool coarse = g >= fine_;
        const float slack = 127.0f * float(depth_ + 64) * FLT_EPSILON;  // as of means
        const Rounded whole = put(scaled, 1.0f, g, r);
        const float bound = sum * (coarse ? slack : 0.5f + slack) + (rests_ ? 0.0f : length * whole.left);
        make(g, r, scale, bound, whole.total, coarse ? std::sqrt(squares) : 0.0f);
        if (rests_) {
            const Rounded rest = put(scaled, 254.0f, g, count_ + r);  // what is left is at most 1/2
            make(g, count_ + r, scale / 254.0f, length * rest.left, rest.total, 0.0f);
        }
        return sum * scale;
    }

    struct Rounded {
        float left;  // the length of what rounding left of numbers times `finer`
        int total;
    };
    // Rounds `numbers` to codes of row `r`, times `finer`, and leaves what that left of them.
    Rounded put(float* numbers, float finer, int g, int r) {
        int8_t* const codes = codes_.data() + (size_t(g) * kBoundGroup * made_of_ + 8 * r);
        float squares = 0;
        int total = 0;
        for (int k = 0; k < kBoundGroup; ++k) {
            const float exact = numbers[k] * finer, code = std::nearbyint(exact), left = exact - code;
            codes[k / 8 * 8 * made_of_ + k % 8] = int8_t(code);
            squares += left * left, total += int(code), numbers[k] = left;
        }
        return {std::sqrt(squares), total};
    }

    void make(int g, int r, float scale, float bound, int total, float length) {
        const bool coarse = g >= fine_;
        const double zero = coarse ? 120.5 : 128 - kFineTaken, unit = coarse ? 16 : 1;
        made_[g * made_of_ + r] = {scale * float(unit), int32_t(std::ceil((bound * 1.001 - zero * total) / unit)),
                                   length * 1.001f / (kApartUnit * float(unit))};
    }

    int count_ = 0, depth_ = 0, groups_ = 0, fine_ = 0, made_of_ = 0;
    bool rests_ = false;
    std::vector<float> numbers_, shifts_;  // of a row, in whole groups; [rows]
    std::vector<BoundedGroup> made_;
    std::vector<int8_t> codes_;
};

}  // namespace weft
