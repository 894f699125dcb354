// RMS norm, rotary embedding with cache write, SiLU * up. Every element goes through the same vector code (short ends
// are copied into a whole vector), so a row's bits never depend on the rows beside it or on the threads.
#include "parallel.h"
#include "vec.h"

namespace weft {
namespace {

constexpr long kSerialElements = 1 << 15;  // elements below which waking threads costs more than it gives
constexpr int kRowsPerUnit = 8;

template <class S> struct ComputeOf { using T = float; };
template <> struct ComputeOf<double> { using T = double; };
template <class S> using Compute = typename ComputeOf<S>::T;

template <class S> Vec<Compute<S>> load_some(const S* p, int count) {
    S whole[kWidth<Compute<S>>] = {};
    for (int i = 0; i < count; ++i) whole[i] = p[i];
    return load(whole);
}

template <class S> void store_some(S* p, Vec<Compute<S>> x, int count) {
    S whole[kWidth<Compute<S>>];
    store(whole, x);
    for (int i = 0; i < count; ++i) p[i] = whole[i];
}

// f(vector at i, ...) for every vector of n elements; `load_at` and `store_at` see how many elements are real.
template <class S, class F> void each(int n, F&& f) {
    constexpr int W = kWidth<Compute<S>>;
    int i = 0;
    for (; i + W <= n; i += W) f(i, W);
    if (i < n) f(i, n - i);
}

template <class S> Vec<Compute<S>> take(const S* p, int count) {
    return count == kWidth<Compute<S>> ? load(p) : load_some(p, count);
}
template <class S> void give(S* p, Vec<Compute<S>> x, int count) {
    if (count == kWidth<Compute<S>>)
        store(p, x);
    else
        store_some(p, x, count);
}

template <class Row> void each_row(int rows, long elements, int threads, void* team, Row&& row) {
    int units = (rows + kRowsPerUnit - 1) / kRowsPerUnit;
    deal(units, elements < kSerialElements ? 1 : threads, reinterpret_cast<TeamCall>(team), [&](int unit) {
        int end = (unit + 1) * kRowsPerUnit < rows ? (unit + 1) * kRowsPerUnit : rows;
        for (int i = unit * kRowsPerUnit; i < end; ++i) row(i);
    });
}

// X: what x is stored in, S or the wider type that S is computed in.
template <class S, class X = S>
void rms_norm(const X* x, int64_t x_row, const S* weight, S* out, int rows, int size, double eps, int threads, void* team) {
    using T = Compute<S>;
    each_row(rows, long(rows) * size, threads, team, [&](int i) {
        const X* from = x + i * x_row;
        S* to = out + int64_t(i) * size;
        Vec<T> squares{};
        each<S>(size, [&](int d, int count) {
            Vec<T> v = take(from + d, count);
            squares += v * v;
        });
        T factor = T(1) / __builtin_sqrt(sum<T>(squares) / T(size) + T(eps));
        each<S>(size, [&](int d, int count) { give(to + d, take(from + d, count) * factor * take(weight + d, count), count); });
    });
}

template <class S> void silu_mul(const S* gate_up, int64_t row, S* out, int rows, int size, int threads, void* team) {
    using T = Compute<S>;
    each_row(rows, long(rows) * size, threads, team, [&](int i) {
        const S *gate = gate_up + i * row, *up = gate + size;
        S* to = out + int64_t(i) * size;
        each<S>(size, [&](int d, int count) {
            Vec<T> g = take(gate + d, count);
            give(to + d, g / (splat(T(1)) + exp(-g)) * take(up + d, count), count);
        });
    });
}

template <class S> struct Rope {
    const S *q, *k, *v;
    int64_t q_row, q_head, k_row, k_head, v_row, v_head;
    S *out, *cache_k, *cache_v;
    const Compute<S>* cos_sin;
    const int32_t *positions, *slots;
    int rows, heads, kv_heads, dim, block_size;

    void rotate(const S* from, const Compute<S>* angles, S* to) const {
        int half = dim / 2;
        each<S>(half, [&](int d, int count) {
            auto a = take(from + d, count), b = take(from + half + d, count);
            auto c = take(angles + d, count), s = take(angles + half + d, count);
            give(to + d, a * c - b * s, count);
            give(to + half + d, b * c + a * s, count);
        });
    }

    void row(int i) const {
        const Compute<S>* angles = cos_sin + int64_t(positions[i]) * dim;
        for (int a = 0; a < heads; ++a) rotate(q + i * q_row + a * q_head, angles, out + (int64_t(i) * heads + a) * dim);
        for (int h = 0; h < kv_heads; ++h) {
            int64_t page = int64_t(slots[i] / block_size) * kv_heads + h;
            int64_t at = (page * block_size + slots[i] % block_size) * dim;
            rotate(k + i * k_row + h * k_head, angles, cache_k + at);
            std::memcpy(cache_v + at, v + i * v_row + h * v_head, sizeof(S) * dim);
        }
    }
};

template <class S>
void rope_and_cache(const void* q, int64_t q_row, int64_t q_head, const void* k, int64_t k_row, int64_t k_head, const void* v,
                    int64_t v_row, int64_t v_head, void* out, void* cache_k, void* cache_v, const void* cos_sin,
                    const int32_t* positions, const int32_t* slots, int rows, int heads, int kv_heads, int dim,
                    int block_size, int threads, void* team) {
    Rope<S> rope{static_cast<const S*>(q), static_cast<const S*>(k), static_cast<const S*>(v), q_row, q_head, k_row, k_head,
                 v_row, v_head, static_cast<S*>(out), static_cast<S*>(cache_k), static_cast<S*>(cache_v),
                 static_cast<const Compute<S>*>(cos_sin), positions, slots, rows, heads, kv_heads, dim, block_size};
    each_row(rows, long(rows) * (heads + 2 * kv_heads) * dim, threads, team, [&](int i) { rope.row(i); });
}

}  // namespace
}  // namespace weft

#define WEFT_POINTWISE(SUFFIX, STORED)                                                                                       \
    extern "C" void weft_rms_norm_##SUFFIX(const void* x, int64_t x_row, const void* weight, void* out, int rows, int size,  \
                                           double eps, int threads, void* team) {                                            \
        using S = STORED;                                                                                                    \
        weft::rms_norm<S>(static_cast<const S*>(x), x_row, static_cast<const S*>(weight), static_cast<S*>(out), rows, size,  \
                          eps, threads, team);                                                                               \
    }                                                                                                                        \
    extern "C" void weft_silu_mul_##SUFFIX(const void* gate_up, int64_t row, void* out, int rows, int size, int threads,     \
                                           void* team) {                                                                     \
        using S = STORED;                                                                                                    \
        weft::silu_mul<S>(static_cast<const S*>(gate_up), row, static_cast<S*>(out), rows, size, threads, team);             \
    }                                                                                                                        \
    extern "C" void weft_rope_and_cache_##SUFFIX(                                                                            \
        const void* q, int64_t q_row, int64_t q_head, const void* k, int64_t k_row, int64_t k_head, const void* v,           \
        int64_t v_row, int64_t v_head, void* out, void* cache_k, void* cache_v, const void* cos_sin,                         \
        const int32_t* positions, const int32_t* slots, int rows, int heads, int kv_heads, int dim, int block_size,          \
        int threads, void* team) {                                                                                           \
        weft::rope_and_cache<STORED>(q, q_row, q_head, k, k_row, k_head, v, v_row, v_head, out, cache_k, cache_v, cos_sin,   \
                                     positions, slots, rows, heads, kv_heads, dim, block_size, threads, team);               \
    }

WEFT_POINTWISE(f32, float)
WEFT_POINTWISE(bf16, weft::bf16)
WEFT_POINTWISE(f64, double)

extern "C" void weft_rms_norm_wide_bf16(const void* x, int64_t x_row, const void* weight, void* out, int rows, int size,
                                        double eps, int threads, void* team) {
    using S = weft::bf16;
    weft::rms_norm<S, float>(static_cast<const float*>(x), x_row, static_cast<const S*>(weight), static_cast<S*>(out), rows,
                             size, eps, threads, team);
}
