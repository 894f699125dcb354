// What the kernels of rows and of attention share beside vec.h: multiply-add, short vectors, bf16 pairs, 2^x, types of
// operands, the exact model's grid.
#pragma once

#include <math.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels/common/vec.h"
#include "runtime/instruction.h"

namespace weft {

// a * b + c, rounded once where the target can.
inline Vec<float> fused(Vec<float> a, Vec<float> b, Vec<float> c) {
#if defined(__AVX512F__)
    return (Vec<float>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (Vec<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}
inline Vec<double> fused(Vec<double> a, Vec<double> b, Vec<double> c) {
#if defined(__AVX512F__)
    return (Vec<double>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
    return (Vec<double>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    return a * b + c;
#endif
}

// To bf16, nearest, ties to even.
inline void store_narrow(bf16* p, Vec<float> x) {
#if defined(__AVX512BF16__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh((__m512)x));
#else
    store(p, x);
#endif
}
template <class T> inline void store_narrow(T* p, Vec<T> x) { store(p, x); }

// Of x and y; y where x is not a number.
#if defined(__AVX512F__)
WEFT_INLINE Vec<float> larger(Vec<float> x, Vec<float> y) { return (Vec<float>)_mm512_max_ps((__m512)x, (__m512)y); }
WEFT_INLINE Vec<float> smaller(Vec<float> x, Vec<float> y) { return (Vec<float>)_mm512_min_ps((__m512)x, (__m512)y); }
#else
WEFT_INLINE Vec<float> larger(Vec<float> x, Vec<float> y) { return x > y ? x : y; }
WEFT_INLINE Vec<float> smaller(Vec<float> x, Vec<float> y) { return x < y ? x : y; }
#endif

// To bf16, nearest, ties to even, of what is finite and below 2^111: beside 2^16 times its own power of two a number keeps its
// eight highest bits, and taking that away again is exact. What is subnormal in fp32 stays as it is.
WEFT_INLINE Vec<float> near_bf16(Vec<float> x) {
    const Vec<float> power = (Vec<float>)((VecInt<float>)x & int32_t(0xff800000)), far = splat(65536.0f);
    return fused(power, -far, fused(power, far, x));
}

// The largest lane.
#if defined(__AVX512F__)
WEFT_INLINE float highest_of(Vec<float> x) { return _mm512_reduce_max_ps((__m512)x); }
#else
WEFT_INLINE float highest_of(Vec<float> x) { return largest<float>(x); }
#endif

// What the functions below compute with: read from here where registers are short.
struct NearNumbers {
    float of_rest[5] = {1.0f, 6.9314718e-1f, 2.40226507e-1f, 5.5504e-2f, 9.6180e-3f};  // ln(2)^i / i!
    float power = -1.44269504f, most = 126.0f, least = -126.0f, one = 1.0f;
};
inline constexpr NearNumbers kNear;

// 2^x for x <= 126, within 5e-5 of it; 1 at 0; below -126 0, or with AVX-512 what is left there; NaN stays NaN.
WEFT_INLINE Vec<float> exp2_near(Vec<float> x, const NearNumbers& near = kNear) {
#if defined(__AVX512F__)
    const Vec<float> whole = (Vec<float>)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    const Vec<float> magic = splat(kToInteger);
    const Vec<float> whole = (x + magic) - magic;
#endif
    const Vec<float> rest = x - whole;
    Vec<float> p = fused(splat(near.of_rest[4]), rest, splat(near.of_rest[3]));
    p = fused(p, rest, splat(near.of_rest[2]));
    p = fused(p, rest, splat(near.of_rest[1]));
    p = fused(p, rest, splat(near.of_rest[0]));
#if defined(__AVX512F__)
    return (Vec<float>)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
    typedef uint32_t Bits __attribute__((vector_size(kVectorBytes)));  // unsigned: lanes below -126 wrap, and are not used
    const Bits bits = ((Bits)(x + magic) << 23) + (127u << 23);
    return x < -126.0f ? Vec<float>{} : p * (Vec<float>)bits;
#endif
}

// x / (1 + e^-x), for what is rounded to bf16, where `exp` is exact beyond what that keeps: within 6e-5 of it, below -87, where
// it tends to 0, within |x| 2^-126. NaN stays NaN.
WEFT_INLINE Vec<float> silu_near(Vec<float> x, const NearNumbers& near = kNear) {
    const Vec<float> power = larger(smaller(x * splat(near.power), splat(near.most)), splat(near.least));
    return x / (exp2_near(power, near) + splat(near.one));
}

// Loads the first `count` elements at p, converted to the compute type T; the other lanes are zero.
template <class T, class S> inline Vec<T> take(const S* p, int count) {
    if constexpr (sizeof(S) <= sizeof(T) && (sizeof(T) == 4 || sizeof(S) == 8))
        if (count >= kWidth<T>) return load(p);
    Vec<T> x{};
    for (int i = 0; i < count && i < kWidth<T>; ++i) x[i] = T(widen(p[i]));
    return x;
}
template <class T, class S> inline void give_as(S* p, Vec<T> x, int count) {
    if constexpr (sizeof(S) <= sizeof(T) && (sizeof(T) == 4 || sizeof(S) == 8))
        if (count >= kWidth<T>) return store_narrow(p, x);
    for (int i = 0; i < count && i < kWidth<T>; ++i)
        if constexpr (sizeof(S) == 2) {
            S whole[kWidth<T>];  // the rounding of whole vectors
            store_narrow(whole, x);
            p[i] = whole[i];
        } else {
            p[i] = S(x[i]);
        }
}

template <class S> inline void give(S* p, Vec<float> x, int count) { give_as<float>(p, x, count); }
template <class S> inline void give(S* p, Vec<double> x, int count) { give_as<double>(p, x, count); }

// f(place, elements from there on) for every vector of `size` elements, the last one perhaps in part.
template <class T, class F> inline void each_vector(int size, F&& f) {
    for (int i = 0; i < size; i += kWidth<T>) f(i, size - i);
}

// The exact model's grid: see weft/compute/ops/reference/exact_ops.py.
inline double snapped(double x) {
    const double units = nearbyint(x * 64.0);
    return (units < -256.0 ? -256.0 : units > 256.0 ? 256.0 : units) / 64.0;
}
template <class T> inline Vec<T> snapped(Vec<T> x, bool exact) {
    if (exact)
        for (int i = 0; i < kWidth<T>; ++i) x[i] = T(snapped(double(x[i])));
    return x;
}

// Sum of squares in one order for a length, whatever the rows beside it.
template <class T, class S> inline T squares(const S* x, int size) {
    constexpr int W = kWidth<T>;
    Vec<T> sums[4] = {};
    int i = 0;
    for (; i + 4 * W <= size; i += 4 * W)
        for (int j = 0; j < 4; ++j) {
            const Vec<T> v = take<T>(x + i + j * W, W);
            sums[j] = fused(v, v, sums[j]);
        }
    for (int j = 0; i < size; i += W, ++j) {
        const Vec<T> v = take<T>(x + i, size - i);
        sums[j] = fused(v, v, sums[j]);
    }
    return sum<T>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <class S> struct Tag {
    using type = S;
};

// Whether an instruction's sums and parameters are fp64.
inline bool in_double(const Instruction& i) { return i.exact || i.out.dtype == F64 || i.in[0].dtype == F64; }

template <class F> inline void with_types_of(int from, int to, F&& f) {
    if (from == BF16) to == BF16 ? f(Tag<bf16>{}, Tag<bf16>{}, Tag<float>{}) : f(Tag<bf16>{}, Tag<float>{}, Tag<float>{});
    else to == BF16 ? f(Tag<float>{}, Tag<bf16>{}, Tag<float>{}) : f(Tag<float>{}, Tag<float>{}, Tag<float>{});
}

// f(Tag<in's>, Tag<out's>, Tag<what is computed in>): fp32 between fp32 and bf16, fp64 between fp32 and fp64.
template <class F> inline void with_types(bool wide, int from, int to, F&& f) {
    if (!wide) return with_types_of(from, to, f);
    if (from == F64) to == F64 ? f(Tag<double>{}, Tag<double>{}, Tag<double>{}) : f(Tag<double>{}, Tag<float>{}, Tag<double>{});
    else to == F64 ? f(Tag<float>{}, Tag<double>{}, Tag<double>{}) : f(Tag<float>{}, Tag<float>{}, Tag<double>{});
}

template <class T> inline T* row_of(const Operand& o, int64_t row) { return static_cast<T*>(o.base) + row * o.stride; }

}  // namespace weft
