// Attention over plain pages in fp32, bf16 and fp64, and of the exact model.
//
// The same chunks and the same order as over packed pages: scores of a chunk, its peak, its weights' sum, its values' sums,
// then the chunks one after the other. Keys are transposed once for all rows of a tile.
#pragma once

#include <limits>

#include "kernels/attention/attention_units.h"
#include "kernels/attention/kv_cache.h"
#include "kernels/attention/partial_rows.h"
#include "kernels/common/scratch.h"

namespace weft {

// Q: of q and of what comes out; C: of the cache; T: computed in.
template <class Q, class C, class T> class PlainAttention {
public:
    static constexpr int kRows = 12;
    static constexpr bool kMeets = false;

    PlainAttention(const Instruction& i, const Step& step)
        : i_(i), step_(step), pages_(i, sizeof(C)), held_(i), dim_(i.n[HEAD_DIM]), padded_((dim_ + W - 1) / W * W),
          window_(i.n[WINDOW]) {
        T* at =
            scratch<ATTENTION>().template take<T>(size_t(2 * kRows) * padded_ + size_t(kChunk) * (kRows + dim_) + kRows * dim_);
        out_ = at, at += kRows * padded_;
        sums_ = at, at += kRows * padded_;
        scores_ = at, at += kRows * kChunk;
        keys_ = at, at += kChunk * dim_;
        queries_ = at;
    }

    void run(const Unit& unit, const Unit*, Meeting*) {
        const int rows = unit.rows();
        take_queries(unit);
        std::fill(out_, out_ + rows * padded_, T(0));
        for (int r = 0; r < rows; ++r) peak_[r] = kLowest, total_[r] = 0;
        const int low = window_ ? held_.before(unit.position - window_ + 1) : 0;
        for (int chunk = unit.begin; chunk < unit.end; ++chunk) {
            first_ = chunk * kChunk;
            begin_ = std::max(first_, low), end_ = std::min(first_ + kChunk, held_.before(unit.position + unit.tokens));
            table_ = step_.block_tables + int64_t(unit.run) * step_.table_width;
            transpose_keys(unit.heads.kv);
            each_group(rows, [&](auto group, int r) { score<decltype(group)::value>(r); });
            T keep[kRows], gain[kRows];
            for (int r = 0; r < rows; ++r) soften(unit, r, keep[r], gain[r]);
            each_group(rows, [&](auto group, int r) { weigh<decltype(group)::value>(unit.heads.kv, r); });
            for (int r = 0; r < rows; ++r)
                if (gain[r] != 0)
                    for (int d = 0; d < padded_; d += W) {
                        T* out = out_ + r * padded_ + d;
                        store(out, fused(load(out), splat(keep[r]), load(sums_ + r * padded_ + d) * gain[r]));
                    }
        }
        if (i_.op == PARTIAL) give_parts(unit);
        else give_results(unit);
    }

private:
    static constexpr int W = kWidth<T>, kGroup4 = 4;
    static constexpr T kLowest = -std::numeric_limits<T>::infinity();

    template <class F> static void each_group(int rows, F&& f) {
        int r = 0;
        for (; r + kGroup4 <= rows; r += kGroup4) f(std::integral_constant<int, kGroup4>{}, r);
        for (; r < rows; ++r) f(std::integral_constant<int, 1>{}, r);
    }

    void take_queries(const Unit& unit) {
        for (int r = 0; r < unit.rows(); ++r) {
            const Q* q =
                row_of<Q>(i_.in[0], unit.row + r / unit.heads.count) + (unit.heads.first + r % unit.heads.count) * dim_;
            for (int d = 0; d < dim_; ++d) queries_[r * dim_ + d] = T(widen(q[d])) * T(i_.f[SCALE]);
        }
    }

    int64_t place(int key) const { return int64_t(key % pages_.tokens) * dim_; }

    // keys_[d][key of the chunk]; groups of W keys that the tile does not see at all are left out, others are zero.
    void transpose_keys(int kv) {
        for (int key = begin_ / W * W; key < end_; key += W)
            for (int d = 0; d < dim_; d += W) {
                Vec<T> square[W];
                for (int j = 0; j < W; ++j)
                    square[j] =
                        key + j < begin_ || key + j >= end_
                            ? Vec<T>{}
                            : take<T>(pages_.template keys<C>(table_[(key + j) / pages_.tokens], kv) + place(key + j) + d,
                                      dim_ - d);
                transpose<T>(square);
                for (int j = 0; j < W && d + j < dim_; ++j) store(keys_ + (d + j) * kChunk + key - first_, square[j]);
            }
    }

    template <int R> void score(int r) {
        for (int key = begin_ / W * W - first_; key < end_ - first_; key += W) {
            Vec<T> sums[R] = {};
            for (int d = 0; d < dim_; ++d) {
                const Vec<T> k = load(keys_ + d * kChunk + key);
                for (int j = 0; j < R; ++j) sums[j] = fused(splat(queries_[(r + j) * dim_ + d]), k, sums[j]);
            }
            for (int j = 0; j < R; ++j) store(scores_ + (r + j) * kChunk + key, sums[j]);
        }
    }

    void soften(const Unit& unit, int r, T& keep, T& gain) {
        T* s = scores_ + r * kChunk;
        const int position = unit.position + r / unit.heads.count, from = begin_ / W * W - first_;
        const int to = (end_ - first_ + W - 1) / W * W;
        const int end = std::min(end_, held_.before(position + 1)) - first_;
        const int begin = (window_ ? std::max(begin_, held_.before(position - window_ + 1)) : begin_) - first_;
        gain = 0;
        for (int key = from; key < to; ++key)
            if (key < begin || key >= end) s[key] = kLowest;
        if (begin >= end) {
            std::fill(s + from, s + to, T(0));
            return;
        }
        T highest = s[begin];
        for (int key = begin + 1; key < end; ++key) highest = s[key] > highest ? s[key] : highest;
        // lane by lane of a vector, so that where a tile begins does not matter
        Vec<T> sums{};
        for (int key = from; key < to; key += W) {
            const Vec<T> w = exp(load(s + key) - splat(highest));
            sums += w;
            store(s + key, w);
        }
        const T higher = peak_[r] > highest ? peak_[r] : highest;
        keep = exp(splat(T(peak_[r] - higher)))[0], gain = exp(splat(T(highest - higher)))[0];
        total_[r] = total_[r] * keep + sum<T>(sums) * gain;
        peak_[r] = higher;
    }

    template <int R> void weigh(int kv, int r) {
        for (int d = 0; d < dim_; d += W) {
            Vec<T> sums[R] = {};
            for (int key = begin_; key < end_; ++key) {
                const C* value = pages_.template values<C>(table_[key / pages_.tokens], kv) + place(key) + d;
                const Vec<T> v = take<T>(value, dim_ - d);
                for (int j = 0; j < R; ++j) sums[j] = fused(splat(scores_[(r + j) * kChunk + key - first_]), v, sums[j]);
            }
            for (int j = 0; j < R; ++j) store(sums_ + (r + j) * padded_ + d, sums[j]);
        }
    }

    void give_results(const Unit& unit) const {
        for (int r = 0; r < unit.rows(); ++r) {
            Q* out = row_of<Q>(i_.out, unit.row + r / unit.heads.count) + (unit.heads.first + r % unit.heads.count) * dim_;
            for (int d = 0; d < dim_; d += W)
                give(out + d, snapped<T>(load(out_ + r * padded_ + d) / splat(total_[r]), i_.exact), dim_ - d);
        }
    }

    void give_parts(const Unit& unit) const {
        const PartialRows<T> rows(i_, step_);
        for (int r = 0; r < unit.rows(); ++r) rows.put(unit, r, out_ + r * padded_, peak_[r], total_[r]);
    }

    const Instruction& i_;
    const Step& step_;
    const Pages pages_;
    const HeldKeys held_;
    const int dim_, padded_, window_;
    T *out_, *sums_, *scores_, *keys_, *queries_;
    T peak_[kRows], total_[kRows];
    int first_ = 0, begin_ = 0, end_ = 0;
    const int32_t* table_ = nullptr;
};

}  // namespace weft
