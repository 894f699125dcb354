// The QKV instruction after its GEMM: rows [q heads | k heads | v heads] get q/k norm and RoPE, and keys and values go to the
// cache. One unit of work is the consecutive rows of one block of one run, for one KV head and a share of the query heads,
// so no two threads ever write one page.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/attention/kv_cache.h"

namespace weft {

// X: of the rows; T: computed in; Q: of the rotated q; C: of the cache.
template <class X, class T, class Q, class C> class RopeAndCache {
public:
    RopeAndCache(const Instruction& i, const Step& step)
        : i_(i), step_(step), pages_(i, sizeof(C)), dim_(i.n[HEAD_DIM]), heads_(i.n[Q_HEADS]), kv_heads_(i.n[KV_HEADS]),
          rows_(step.rows[i.rows]) {}

    void run(const TeamMember& me) {
        me.run_evenly(rows_ * kv_heads_, [&](int64_t from, int64_t to) { units(from, to); });
    }

private:
    static constexpr int W = kWidth<T>;

    // Consecutive rows of one run whose keys go to one block of the cache, for one KV head.
    struct Unit {
        int64_t begin = 0, end = 0;
        int g = 0;
        int size() const { return int(end - begin); }
    };
    bool goes_on(int64_t r) const {
        return step_.run_of_row[r] == step_.run_of_row[r - 1] && pages_.offset_of(step_.positions[r]);
    }
    Unit first_from(int64_t begin) const {
        int64_t end = std::min(begin + 1, rows_);
        while (end < rows_ && goes_on(end)) ++end;
        return {begin, end, 0};
    }
    Unit after(const Unit& unit) const {
        return unit.g + 1 < kv_heads_ ? Unit{unit.begin, unit.end, unit.g + 1} : first_from(unit.end);
    }
    int64_t place_of(const Unit& unit) const { return unit.begin * kv_heads_ + unit.g * (unit.end - unit.begin); }

    // Those whose rows times KV heads begin in [from, to).
    void units(int64_t from, int64_t to) {
        int64_t begin = from / kv_heads_;
        while (begin > 0 && goes_on(begin)) --begin;
        for (Unit now = first_from(begin); place_of(now) < to; now = after(now))
            if (place_of(now) >= from) write(now);
    }

    void write(const Unit& unit) {
        // rotation is per head: query heads are split evenly, whatever KV head they read
        const int first = heads_ * unit.g / kv_heads_, last = heads_ * (unit.g + 1) / kv_heads_;
        for (int64_t r = unit.begin; r < unit.end; ++r) {
            const X* x = row_of<X>(i_.in[0], r);
            Q* q = row_of<Q>(i_.out, r);
            const T* scales = static_cast<const T*>(i_.p[Q_SCALE]);
            const T scale = scales ? scales[step_.positions[r]] : T(1);
            for (int h = first; h < last; ++h)
                rotate(x + h * dim_, static_cast<const T*>(i_.p[Q_NORM]), step_.positions[r], q + h * dim_, scale);
        }
        const int block = pages_.block_of(step_.slots[unit.begin]), offset = pages_.offset_of(step_.slots[unit.begin]);
        C *keys = pages_.template keys<C>(block, unit.g), *values = pages_.template values<C>(block, unit.g);
        if constexpr (sizeof(C) == 2) {
            if (pages_.packed) return packed(unit.begin, unit.size(), unit.g, offset, keys, values);
        }
        for (int t = 0; t < unit.size(); ++t) {
            key(unit.begin + t, unit.g, keys + (offset + t) * dim_);
            value(unit.begin + t, unit.g, values + (offset + t) * dim_);
        }
    }

    void packed(int64_t begin, int count, int g, int offset, C* keys, C* values) {
        if constexpr (sizeof(C) == 2) {
            C* rows = scratch<QKV>().template take<C>(size_t(2) * pages_.tokens * dim_ + 2 * W);
            for (int t = 0; t < count; ++t) key(begin + t, g, rows + t * dim_);
            write_packed_keys(reinterpret_cast<uint32_t*>(keys), pages_, rows, offset, count);
            write_packed_values(reinterpret_cast<uint32_t*>(values), pages_,
                                value_rows(begin, count, g, rows + pages_.tokens * dim_), offset, count);
        }
    }

    // Values as the cache keeps them: in place where the rows have them so, else in `room`.
    Rows<C> value_rows(int64_t begin, int count, int g, C* room) const {
        if constexpr (std::is_same_v<X, C>) {
            return {key_of(begin, g) + kv_heads_ * dim_, i_.in[0].stride};
        } else {
            for (int t = 0; t < count; ++t) value(begin + t, g, room + t * dim_);
            return {room, dim_};
        }
    }

    const X* key_of(int64_t r, int g) const { return row_of<X>(i_.in[0], r) + (heads_ + g) * dim_; }

    void key(int64_t r, int g, C* to) const {
        rotate(key_of(r, g), static_cast<const T*>(i_.p[K_NORM]), step_.positions[r], to);
    }

    void value(int64_t r, int g, C* to) const {
        const X* v = key_of(r, g) + kv_heads_ * dim_;
        for (int d = 0; d < dim_; d += W) give(to + d, snapped<T>(take<T>(v + d, dim_ - d), i_.exact), dim_ - d);
    }

    // NeoX style: the first half of the rotated dims pairs with the second; the dims after them are copied. Then all are
    // multiplied by `scale`.
    template <class O> void rotate(const X* x, const T* norm, int64_t position, O* out, T scale = 1) const {
        const int rotated = i_.n[ROPE_DIM], half = rotated / 2;
        const T *cos = static_cast<const T*>(i_.p[COS_SIN]) + position * rotated, *sin = cos + half;
        const Vec<T> scales = splat(scale);
        const T factor = norm ? T(T(1) / sqrt(squares<T>(x, dim_) / T(dim_) + T(i_.f[EPS]))) : T(1);
        auto at = [&](int d, int left) {
            const Vec<T> v = take<T>(x + d, left);
            return norm ? snapped<T>(v * splat(factor) * take<T>(norm + d, left), i_.exact) : v;
        };
        for (int d = 0; d < half; d += W) {
            const int left = half - d;
            const Vec<T> a = at(d, left), b = at(half + d, left), c = take<T>(cos + d, left), s = take<T>(sin + d, left);
            give(out + d, snapped<T>((a * c - b * s) * scales, i_.exact), left);
            give(out + half + d, snapped<T>((b * c + a * s) * scales, i_.exact), left);
        }
        for (int d = rotated; d < dim_; d += W) give(out + d, snapped<T>(at(d, dim_ - d) * scales, i_.exact), dim_ - d);
    }

    const Instruction& i_;
    const Step& step_;
    const Pages pages_;
    const int dim_, heads_, kv_heads_;
    const int64_t rows_;
};

inline void qkv(const Instruction& i, const Step& step, const TeamMember& me) {
    if (i.exact) return RopeAndCache<float, double, float, double>(i, step).run(me);
    if (i.out.dtype == F64) return RopeAndCache<double, double, double, double>(i, step).run(me);
    if (i.out.dtype == F32) return RopeAndCache<float, float, float, float>(i, step).run(me);
    if (i.in[0].dtype == BF16) return RopeAndCache<bf16, float, bf16, bf16>(i, step).run(me);
    RopeAndCache<float, float, bf16, bf16>(i, step).run(me);
}

}  // namespace weft
