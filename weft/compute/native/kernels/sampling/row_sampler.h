// Samples one token from one row of fp32 logits: the largest, or a draw after temperature, min_p, top_k and top_p. Twin:
// weft/compute/sampling/draw.py.
//
// The row is not sorted. Candidates are collected with a threshold on the logit (lowered until there are enough), and the
// last one that is kept is found by bisection. Tokens are ordered by logit, equal ones by id; sums of probabilities are fp64.
// An id differs from the twin's only where the random number falls on the last bits of a sum of probabilities.
#pragma once

#include <float.h>
#include <math.h>

#include <algorithm>
#include <vector>

#include "runtime/pool.h"
#include "kernels/common/scratch.h"
#include "kernels/common/simd.h"

namespace weft {

// How slots want to be sampled, one array each. temperature 0: the largest logit; top_k: the vocabulary's size or below.
struct SamplingTable {
    const double *temperature, *top_p, *min_p;
    const int64_t* top_k;
    const uint64_t* seed;
};

// Two rounds of splitmix64, see weft/compute/sampling/counter_hash.py.
inline double counter_uniform(uint64_t seed, uint64_t position) {
    constexpr uint64_t kStep = 0x9E3779B97F4A7C15ull;
    auto mix = [](uint64_t z) {
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        return z ^ (z >> 31);
    };
    return double(mix(mix(seed + kStep) + (position + 1) * kStep) >> 11) * 0x1p-53;
}

// Whether some lane is not zero.
inline bool any(VecInt<float> x) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)x, (__m512i)x) != 0;
#elif defined(__AVX__)
    return !_mm256_testz_si256((__m256i)x, (__m256i)x);
#else
    int32_t all = 0;
    for (int i = 0; i < kWidth<float>; ++i) all |= x[i];
    return all != 0;
#endif
}

class RowSampler {
public:
    RowSampler(const float* logits, int size) : logits_(logits), size_(size) {}

    // Whether all logits are finite; to be called first.
    bool look() {
        constexpr int W = kWidth<float>, kChains = 4;
        Vec<float> high[kChains], bad[kChains] = {};
        for (Vec<float>& each : high) each = splat(-FLT_MAX);
        int i = 0;
        for (; i + kChains * W <= size_; i += kChains * W)
            for (int j = 0; j < kChains; ++j) {
                const Vec<float> x = load(logits_ + i + j * W);
                high[j] = x > high[j] ? x : high[j];
                bad[j] += x - x;  // not a number where x is not finite
            }
        float top = -FLT_MAX, rest = 0;
        for (int j = 0; j < kChains; ++j) top = std::max(top, largest<float>(high[j])), rest += sum<float>(bad[j]);
        for (; i < size_; ++i) {
            top = logits_[i] > top ? logits_[i] : top;
            rest += logits_[i] - logits_[i];
        }
        top_ = top;
        return rest == 0;
    }

    float top() const { return top_; }
    void take_top(float top) { top_ = top; }  // what `look` would have found

    int largest_id() const {
        constexpr int W = kWidth<float>;
        const Vec<float> top = splat(top_);
        int i = 0;
        for (; i + 4 * W <= size_; i += 4 * W) {
            VecInt<float> found{};
            for (int j = 0; j < 4; ++j) found |= load(logits_ + i + j * W) == top;
            if (any(found)) break;
        }
        while (logits_[i] != top_) ++i;
        return i;
    }

    int draw(float temperature, int64_t top_k, double top_p, double min_p, double uniform) {
        temperature_ = temperature;
        floor_ = min_p > 0 ? float(log(min_p)) : -INFINITY;
        const bool filters = top_k < size_ || top_p < 1;
        if (!filters) {
            blocks_.resize((size_ + kBlock - 1) / kBlock);
            double total = 0;
            for (size_t b = 0; b < blocks_.size(); ++b) total += blocks_[b] = block(int(b)).total;
            return whole(target_of(total, uniform));
        }
        for (float bound = 8;; bound = bound < 100 ? bound * 2 : INFINITY) {
            const double total = collect(-bound);
            if (bound < INFINITY && (top_k < size_ ? int64_t(found_.size()) < top_k : mass_of(found_) < top_p * total))
                continue;
            const Candidate last = last_kept(top_k, top_p, total);
            return among_kept(last, uniform);
        }
    }

private:
    static constexpr int kBlock = 256;

    struct Candidate {
        float x, mass;
        int id;
    };
    static bool before(const Candidate& a, const Candidate& b) { return a.x > b.x || (a.x == b.x && a.id < b.id); }

    struct Block {
        double total;
        int count;
    };

    // Scaled logits and masses of a block, into x_ and mass_.
    Block block(int index) {
        constexpr int W = kWidth<float>;
        const int first = index * kBlock, count = std::min(kBlock, size_ - first);
        const Vec<float> top = splat(top_), temperature = splat(temperature_), floor = splat(floor_);
        for (int i = 0; i < count; i += W) {
            Vec<float> x = (take<float>(logits_ + first + i, count - i) - top) / temperature;
            x = x < floor ? splat(-INFINITY) : x;
            store(x_ + i, x);
            store(mass_ + i, exp(x));
        }
        double sums[8] = {};
        int i = 0;
        for (; i + 8 <= count; i += 8)
            for (int j = 0; j < 8; ++j) sums[j] += double(mass_[i + j]);
        for (; i < count; ++i) sums[i % 8] += double(mass_[i]);
        return {((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7])), count};
    }

    // Rounding must not carry the target to the end.
    static double target_of(double total, double uniform) { return std::min(uniform * total, nextafter(total, 0.0)); }

    // The first id with more mass up to it than the target.
    int whole(double target) {
        double sum = 0;
        size_t b = 0;
        while (b + 1 < blocks_.size() && sum + blocks_[b] <= target) sum += blocks_[b++];
        for (; b < blocks_.size(); ++b) {
            const Block here = block(int(b));
            for (int i = 0; i < here.count; ++i)
                if ((sum += double(mass_[i])) > target) return int(b) * kBlock + i;
        }
        return last_with_mass();
    }

    // Where sums in another order stayed below the target at the very end.
    int last_with_mass() {
        for (int b = (size_ - 1) / kBlock; b >= 0; --b)
            for (int i = block(b).count - 1; i >= 0; --i)
                if (mass_[i] > 0) return b * kBlock + i;
        return size_ - 1;
    }

    // Tokens whose scaled logit is at least `bound`, in the order of ids; returns the mass of all tokens.
    double collect(float bound) {
        found_.clear();
        double total = 0;
        for (int b = 0; b * kBlock < size_; ++b) {
            const Block here = block(b);
            total += here.total;
            const size_t before = found_.size();
            found_.resize(before + here.count);
            Candidate* to = found_.data() + before;
            for (int i = 0; i < here.count; ++i) {
                *to = {x_[i], mass_[i], b * kBlock + i};
                to += x_[i] >= bound && x_[i] > -INFINITY;
            }
            found_.resize(to - found_.data());
        }
        return total;
    }

    static double mass_of(const std::vector<Candidate>& all) {
        double sum = 0;
        for (const Candidate& one : all) sum += one.mass;
        return sum;
    }

    Candidate last_kept(int64_t top_k, double top_p, double total) {
        work_ = found_;
        if (top_k < int64_t(work_.size())) {
            std::nth_element(work_.begin(), work_.begin() + (top_k - 1), work_.end(), before);
            work_.resize(top_k);
        }
        if (top_p >= 1) return *std::max_element(work_.begin(), work_.end(), before);
        const double limit = top_p * (top_k < size_ ? mass_of(work_) : total);
        auto low = work_.begin(), high = work_.end();
        double sum = 0;  // of the tokens before `low`; the last kept is in [low, high)
        while (high - low > 16) {
            const auto middle = low + (high - low) / 2;
            std::nth_element(low, middle, high, before);
            double upper = 0;
            for (auto one = low; one != middle; ++one) upper += one->mass;
            if (sum + upper >= limit) {
                high = middle;
            } else {
                sum += upper;
                low = middle;
            }
        }
        std::sort(low, high, before);
        while (low + 1 != high && (sum += low->mass) < limit) ++low;
        return *low;
    }

    int among_kept(const Candidate& last, double uniform) const {
        double total = 0;
        for (const Candidate& one : found_)
            if (!before(last, one)) total += one.mass;
        const double target = target_of(total, uniform);
        double sum = 0;
        int id = last.id;
        for (const Candidate& one : found_) {
            if (before(last, one)) continue;
            id = one.id;
            if ((sum += one.mass) > target) break;
        }
        return id;
    }

    const float* const logits_;
    const int size_;
    float top_ = 0, temperature_ = 1, floor_ = 0;
    alignas(64) float x_[kBlock + kWidth<float>], mass_[kBlock + kWidth<float>];
    inline static thread_local std::vector<double> blocks_;
    inline static thread_local std::vector<Candidate> found_, work_;
};

}  // namespace weft
