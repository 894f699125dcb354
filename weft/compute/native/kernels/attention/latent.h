// Multi-head latent attention beside its products: latents into the cache, and rotated parts of queries.
// See weft/model/layers/latent_attention.py. The cache holds one latent per token: keys and values are the same memory, plain,
// and attention reads them as one KV head.
#pragma once

#include "kernels/attention/kv_cache.h"
#include "kernels/common/pointwise.h"

namespace weft {

// X: of the rows; T: computed in; Q: of queries that come out; C: of the cache.
template <class X, class T, class Q, class C> class Latent {
public:
    Latent(const Instruction& i, const Step& step)
        : i_(i), step_(step), pages_(i, sizeof(C)), heads_(i.n[Q_HEADS]), dim_(i.n[HEAD_DIM]), rotated_(i.n[ROPE_DIM]) {}

    void run(const TeamMember& me) const {
        const EvenShare share = me.share(step_.rows[i_.rows]);
        const int kept = dim_ - rotated_, given = i_.in[0].columns / heads_;
        for (int64_t r = share.begin; r < share.end; ++r) {
            const X *q = row_of<X>(i_.in[0], r), *latent = row_of<X>(i_.in[1], r);
            Q* out = row_of<Q>(i_.out, r);
            for (int h = 0; h < heads_; ++h) rotate(q + h * given + given - rotated_, r, out + h * dim_ + kept);
            C* token = pages_.template keys<C>(step_.slots[r] / pages_.tokens, 0) + step_.slots[r] % pages_.tokens * dim_;
            normalize(latent, kept, token);
            rotate(latent + kept, r, token + kept);
        }
    }

private:
    static constexpr int W = kWidth<T>;

    void normalize(const X* x, int size, C* to) const {
        const T* weight = static_cast<const T*>(i_.p[K_NORM]);
        const Vec<T> factor = splat(T(T(1) / sqrt(squares<T>(x, size) / T(size) + T(i_.f[EPS]))));
        for (int d = 0; d < size; d += W)
            give(to + d, snapped<T>(take<T>(x + d, size - d) * factor * take<T>(weight + d, size - d), i_.exact), size - d);
    }

    // Neox style, over all rotated dims.
    template <class O> void rotate(const X* x, int64_t row, O* to) const {
        const int half = rotated_ / 2;
        const T *cos = static_cast<const T*>(i_.p[COS_SIN]) + int64_t(step_.positions[row]) * rotated_, *sin = cos + half;
        for (int d = 0; d < half; d += W) {
            const int left = half - d;
            const Vec<T> a = take<T>(x + d, left), b = take<T>(x + half + d, left);
            const Vec<T> c = take<T>(cos + d, left), s = take<T>(sin + d, left);
            give(to + d, snapped<T>(a * c - b * s, i_.exact), left);
            give(to + half + d, snapped<T>(b * c + a * s, i_.exact), left);
        }
    }

    const Instruction& i_;
    const Step& step_;
    const Pages pages_;
    const int heads_, dim_, rotated_;
};

inline void latent(const Instruction& i, const Step& step, const TeamMember& me) {
    if (i.exact) return Latent<float, double, float, double>(i, step).run(me);
    if (i.out.dtype == F64) return Latent<double, double, double, double>(i, step).run(me);
    if (i.out.dtype == F32) return Latent<float, float, float, float>(i, step).run(me);
    Latent<bf16, float, bf16, bf16>(i, step).run(me);
}

}  // namespace weft
