// Routed experts without their GEMMs: top-k routing, a block's choices sorted by slot, rows gathered in that order, and
// weighted sums of answers in the order of a row's choices. Twins: weft/compute/ops/reference/routing.py and weft/model/layers/experts.py.
//
// Choices of a row [2 k]: its experts as numbers, best first, then their weights. Rows sorted by slot are contiguous; how
// many a slot has is known only within a step (ENDS), so buffers hold k rows for each row.
#pragma once

#include <math.h>
#include <string.h>

#include <algorithm>
#include <limits>

#include "kernels/common/pointwise.h"

namespace weft {

constexpr int kMostGroupBest = 8;

// f(Tag<type of choices>)
template <class F> inline void with_choices(const Operand& choices, F&& f) {
    choices.dtype == F64 ? f(Tag<double>{}) : f(Tag<float>{});
}

// One row's scores, and the choice among them; ties go to the lowest number.
template <class T> class Router {
public:
    explicit Router(const Instruction& i) : i_(i), experts_(i.in[0].columns), padded_((experts_ + W - 1) / W * W) {
        scores_ = scratch<ROUTE>().template take<T>(size_t(2 * padded_) + i.n[GROUPS]);
        choice_ = scores_ + padded_;
        groups_ = choice_ + padded_;
    }

    template <class S, class O> void row(const S* logits, O* out) {
        score(logits);
        const T* correction = static_cast<const T*>(i_.p[CORRECTION]);
        for (int e = 0; e < experts_; ++e) choice_[e] = correction ? scores_[e] + correction[e] : scores_[e];
        if (i_.n[GROUPS] > 1) keep_groups();
        const int k = i_.n[TOP_K];
        T chosen[kMostChoices], total = 0;
        for (int c = 0; c < k; ++c) {
            const int e = best(choice_, experts_);
            choice_[e] = kTaken;
            out[c] = O(e);
            chosen[c] = scores_[e];
            total += chosen[c];
        }
        for (int c = 0; c < k; ++c) {
            if (i_.n[NORMALIZE]) chosen[c] /= total + T(1e-20);
            const T weight = chosen[c] * T(i_.f[SCALE]);
            out[k + c] = O(i_.exact ? snapped(double(weight)) : weight);
        }
    }

private:
    static constexpr int W = kWidth<T>;
    static constexpr T kLowest = -std::numeric_limits<T>::infinity();
    static constexpr T kTaken = std::numeric_limits<T>::quiet_NaN();  // greater than nothing

    template <class S> void score(const S* logits) {
        Vec<T> peak = splat(kLowest), total{};
        for (int e = 0; e < padded_; e += W) {
            Vec<T> x = take<T>(logits + e, experts_ - e);
            for (int lane = std::max(0, experts_ - e); lane < W; ++lane) x[lane] = kLowest;
            peak = x > peak ? x : peak;
            store(scores_ + e, x);
        }
        if (i_.n[SIGMOID]) {
            for (int e = 0; e < padded_; e += W) store(scores_ + e, splat(T(1)) / (splat(T(1)) + exp(-load(scores_ + e))));
            return;
        }
        const Vec<T> highest = splat(largest<T>(peak));
        for (int e = 0; e < padded_; e += W) {
            const Vec<T> x = exp(load(scores_ + e) - highest);
            total = total + x;
            store(scores_ + e, x);
        }
        const Vec<T> sums = splat(sum<T>(total));
        for (int e = 0; e < padded_; e += W) store(scores_ + e, load(scores_ + e) / sums);
    }

    // Experts of all but the best groups are out of the question.
    void keep_groups() {
        const int groups = i_.n[GROUPS], size = experts_ / groups, most = std::min(i_.n[GROUP_BEST], size);
        T found[kMostGroupBest];
        for (int g = 0; g < groups; ++g) {
            std::partial_sort_copy(choice_ + g * size, choice_ + (g + 1) * size, found, found + most, std::greater<T>());
            groups_[g] = 0;
            for (int b = 0; b < most; ++b) groups_[g] += found[b];
        }
        for (int kept = 0; kept < i_.n[TOP_GROUPS]; ++kept) groups_[best(groups_, groups)] = kTaken;
        for (int g = 0; g < groups; ++g)
            if (groups_[g] == groups_[g]) std::fill(choice_ + g * size, choice_ + (g + 1) * size, kLowest);
    }

    // What is no number was taken; without any other, the first that is left.
    static int best(const T* x, int count) {
        int found = -1;
        for (int e = 0; e < count; ++e)
            if (x[e] == x[e] && (found < 0 || x[e] > x[found])) found = e;
        return std::max(found, 0);
    }

    const Instruction& i_;
    const int experts_, padded_;
    T *scores_, *choice_, *groups_;
};

inline void route(const Instruction& i, const Step& step, const TeamMember& me) {
    const EvenShare share = me.share(step.rows[i.rows]);
    with_types(in_double(i), i.in[0].dtype, i.out.dtype, [&](auto from, auto to, auto computed) {
        if constexpr (sizeof(typename decltype(to)::type) > 2) {
            Router<typename decltype(computed)::type> router(i);
            for (int64_t r = share.begin; r < share.end; ++r)
                router.row(row_of<typename decltype(from)::type>(i.in[0], r), row_of<typename decltype(to)::type>(i.out, r));
        }
    });
}

// The slot that answers each choice: the j-th row of the step that chooses an expert takes its replica j modulo their
// number. Without tables a choice is a slot already, or below zero where none is asked for.
class Slots {
public:
    explicit Slots(const Instruction& i)
        : replicas_(static_cast<const int64_t*>(i.p[REPLICAS])), slot_of_(static_cast<const int64_t*>(i.p[SLOT_OF])),
          tally_(static_cast<int64_t*>(const_cast<void*>(i.p[TALLY]))), experts_(i.n[EXPERTS]), most_(i.n[MOST]) {
        if (!replicas_) return;
        turns_ = scratch<PLACE>().take<int64_t>(experts_);
        std::fill(turns_, turns_ + experts_, 0);
    }
    int64_t next(int64_t expert) {
        if (!replicas_) return expert;
        return slot_of_[expert * most_ + turns_[expert]++ % replicas_[expert]];
    }
    void count() const {
        for (int e = 0; tally_ && e < experts_; ++e) tally_[e] += turns_[e];
    }

private:
    const int64_t *replicas_, *slot_of_;
    int64_t *tally_, *turns_ = nullptr;
    const int experts_, most_;
};

// From counts per slot to inclusive prefix sums ends[s]; starts[s], stored after them: exclusive prefix sums.
inline int64_t* starts_of(int64_t* ends, int slots) {
    int64_t *starts = ends + slots, total = 0;
    for (int s = 0; s < slots; ++s) {
        starts[s] = total;
        ends[s] = total += ends[s];
    }
    return starts;
}

// All choices of the block's rows, on one thread: they are few beside the products, and every one depends on those before.
inline void place_choices(const Instruction& i, const Step& step, const TeamMember& me) {
    if (me.thread) return;
    const int64_t rows = step.rows[i.rows];
    const int k = i.n[TOP_K], lo = i.n[HERE_LO], held = i.n[HERE_HI] - lo;
    int64_t* ends = static_cast<int64_t*>(const_cast<void*>(i.p[ENDS]));
    int64_t* order = static_cast<int64_t*>(const_cast<void*>(i.p[ORDER]));
    double* weights = static_cast<double*>(const_cast<void*>(i.p[SORTED_WEIGHTS]));
    Slots slots(i);
    std::fill(ends, ends + held, 0);
    with_choices(i.in[0], [&](auto tag) {
        using T = typename decltype(tag)::type;
        for (int64_t r = 0; r < rows; ++r) {
            const T* choices = row_of<T>(i.in[0], r);
            int64_t* places = row_of<int64_t>(i.out, r);
            for (int c = 0; c < k; ++c) {
                const int64_t slot = slots.next(int64_t(choices[c])) - lo;
                places[c] = slot >= 0 && slot < held ? slot : -1;
                if (places[c] >= 0) ++ends[places[c]];
            }
        }
        int64_t* starts = starts_of(ends, held);
        for (int64_t r = 0; r < rows; ++r) {
            const T* choices = row_of<T>(i.in[0], r);
            int64_t* places = row_of<int64_t>(i.out, r);
            for (int c = 0; c < k; ++c) {
                if (places[c] < 0) continue;
                const int64_t place = starts[places[c]]++;
                places[c] = place;
                order[place] = r;
                weights[place] = double(choices[k + c]);
            }
        }
    });
    slots.count();
}

// out[j] = in[0][order[j]], as many as *COUNT says.
inline void gather_rows(const Instruction& i, const Step&, const TeamMember& me) {
    const EvenShare share = me.share(*static_cast<const int64_t*>(i.p[COUNT]));
    const int64_t* order = static_cast<const int64_t*>(i.p[ORDER]);
    const int64_t item = item_bytes(i.out.dtype), bytes = i.in[0].columns * item;
    const char* from = static_cast<const char*>(i.in[0].base);
    for (int64_t j = share.begin; j < share.end; ++j)
        memcpy(static_cast<char*>(i.out.base) + j * bytes, from + order[j] * i.in[0].stride * item, bytes);
}

// out[r] = sum of weight * answer over the choices of a row, in their order; those without a place are answered elsewhere.
// Where ranks share every answer, all addends of the first lie before those of the second, in the order they are added in.
// Weights: of the answers as they lie (SORTED_WEIGHTS), or none where the answers have them already.
inline void combine(const Instruction& i, const Step& step, const TeamMember& me) {
    const EvenShare share = me.share(step.rows[i.rows]);
    const int k = i.n[TOP_K], size = i.out.columns;
    const double* weights = static_cast<const double*>(i.p[SORTED_WEIGHTS]);
    with_types(i.out.dtype == F64 || i.in[0].dtype == F64, i.in[0].dtype, i.out.dtype, [&](auto from, auto to, auto computed) {
        using T = typename decltype(computed)::type;
        const auto* answers = static_cast<const typename decltype(from)::type*>(i.in[0].base);
        for (int64_t r = share.begin; r < share.end; ++r) {
            const int64_t* places = row_of<int64_t>(i.in[1], r);
            auto* y = row_of<typename decltype(to)::type>(i.out, r);
            each_vector<T>(size, [&](int d, int left) {
                Vec<T> total{};
                for (int c = 0; c < k; ++c) {
                    if (places[c] < 0) continue;
                    Vec<T> answer = take<T>(answers + places[c] * size + d, left);
                    for (int a = 1; a < i.n[ADDENDS]; ++a)
                        answer = answer + take<T>(answers + (a * step.rows[i.rows] * k + places[c]) * size + d, left);
                    total = total + (weights ? answer * splat(T(weights[places[c]])) : answer);
                }
                give(y + d, total, left);
            });
        }
    });
}

}  // namespace weft
