// Vectors of the widest registers the target has, written with the compiler's vector types so that one source serves
// every instruction set. Each function treats all elements alike: a value's result never depends on its place in a
// vector.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#define WEFT_INLINE inline __attribute__((always_inline))
#define WEFT_LAMBDA_INLINE __attribute__((always_inline))

namespace weft {

#if defined(__AVX2__) && !defined(__AVX512F__)
#define WEFT_ONLY_AVX2 1
#endif

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T> struct VecOf;
template <> struct VecOf<float> {
    typedef float V __attribute__((vector_size(kVectorBytes)));
    typedef float U __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
    typedef int32_t I __attribute__((vector_size(kVectorBytes)));
};
template <> struct VecOf<double> {
    typedef double V __attribute__((vector_size(kVectorBytes)));
    typedef double U __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
    typedef int64_t I __attribute__((vector_size(kVectorBytes)));
};
template <class T> using Vec = typename VecOf<T>::V;
template <class T> using VecInt = typename VecOf<T>::I;
template <class T> constexpr int kWidth = kVectorBytes / int(sizeof(T));

constexpr float kToInteger = 12582912.0f;  // 1.5 * 2^23: adding it to fp32 rounds to an integer

struct bf16 {
    uint16_t bits;
};

template <class T> inline Vec<T> load(const T* p) { return *reinterpret_cast<const typename VecOf<T>::U*>(p); }
template <class T> inline void store(T* p, Vec<T> x) { *reinterpret_cast<typename VecOf<T>::U*>(p) = x; }
template <class T> inline Vec<T> splat(T x) { return x - Vec<T>{}; }

// To nearest, ties to even, of numbers within 2^22; of others the result is of no use.
inline VecInt<float> nearest_integers(Vec<float> x) { return (VecInt<float>)(x + kToInteger) - 0x4b400000; }

// The same place, of which a compiler does not know it: what was read there is read anew, where there are no registers to
// keep it in.
template <class T> WEFT_INLINE T* read_anew(T* at) {
    asm("" : "+r"(at));
    return at;
}

// Asks for the cache lines of `count` numbers that will soon be read, or written.
template <class T> WEFT_INLINE void fetch_to_read(const T* p, int count) {
    for (int i = 0; i < count; i += 64 / int(sizeof(T))) __builtin_prefetch(p + i);
}
template <class T> WEFT_INLINE void fetch_to_write(const T* p, int count) {
    for (int i = 0; i < count; i += 64 / int(sizeof(T))) __builtin_prefetch(p + i, 1);
}

// bf16 is the upper half of an fp32.
inline Vec<float> load(const bf16* p) {
    typedef uint16_t H __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));
    typedef uint32_t W __attribute__((vector_size(kVectorBytes)));
    W wide = __builtin_convertvector(*reinterpret_cast<const H*>(p), W) << 16;
    return (Vec<float>)wide;
}

inline float widen(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float y;
    std::memcpy(&y, &bits, 4);
    return y;
}
inline float widen(float x) { return x; }
inline double widen(double x) { return x; }

// Rounds to nearest, ties to even; NaN stays NaN.
inline void narrow(float x, bf16& y) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    y.bits = x != x ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline void narrow(float x, float& y) { y = x; }
inline void narrow(double x, double& y) { y = x; }

// Its upper half is x as bf16: to nearest, ties to even; NaN stays NaN.
inline auto with_bf16_above(Vec<float> x) {
    typedef uint32_t W __attribute__((vector_size(kVectorBytes)));
    const W bits = (W)x, rounded = bits + 0x7fff + ((bits >> 16) & 1);
    return x == x ? rounded : W{} + 0x7fc00000;
}
inline Vec<float> rounded_to_bf16(Vec<float> x) { return (Vec<float>)(with_bf16_above(x) & 0xffff0000); }

inline void store(bf16* p, Vec<float> x) {
    typedef uint16_t H __attribute__((vector_size(kVectorBytes / 2)));
    typedef uint16_t HU __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));
    const H half = __builtin_convertvector(with_bf16_above(x) >> 16, H);
    *reinterpret_cast<HU*>(p) = half;
}

template <class T> inline T sum(Vec<T> x) {  // a fixed tree
    for (int half = kWidth<T> / 2; half; half /= 2)
        for (int i = 0; i < half; ++i) x[i] += x[i + half];
    return x[0];
}

// Lanes that are `Half` apart change places.
template <int Half, size_t... E> WEFT_INLINE VecInt<float> crossed(VecInt<float> x, std::index_sequence<E...>) {
#if defined(__clang__)
    return __builtin_shufflevector(x, x, int(E ^ Half)...);
#else
    return __builtin_shuffle(x, VecInt<float>{int(E ^ Half)...});
#endif
}
// The first (`Which` = 0) or the second of every two lanes of a and then b.
template <int Which, size_t... E>
WEFT_INLINE VecInt<float> one_of_two(VecInt<float> a, VecInt<float> b, std::index_sequence<E...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, int(2 * E + Which)...);
#else
    return __builtin_shuffle(a, b, VecInt<float>{int(2 * E + Which)...});
#endif
}
template <int Which> WEFT_INLINE VecInt<float> one_of_two(VecInt<float> a, VecInt<float> b) {
    return one_of_two<Which>(a, b, std::make_index_sequence<kWidth<float>>());
}
// f of all lanes, which f(f(x, y), z) = f(x, f(y, z)) makes one number.
template <int Half, class Lanes, class F> WEFT_INLINE int32_t folded(VecInt<float> x, F f, Lanes lanes) {
    if constexpr (Half == 0) return x[0];
    else return folded<Half / 2>(f(x, crossed<Half>(x, lanes)), f, lanes);
}
template <class F> WEFT_INLINE int32_t folded(VecInt<float> x, F f) {
    return folded<kWidth<float> / 2>(x, f, std::make_index_sequence<kWidth<float>>());
}
inline int32_t sum_of(VecInt<float> x) {
    return folded(x, [](VecInt<float> a, VecInt<float> b) { return a + b; });
}
inline int32_t largest_of(VecInt<float> x) {
    return folded(x, [](VecInt<float> a, VecInt<float> b) { return a > b ? a : b; });
}

template <class T> inline T largest(Vec<T> x) {
    T m = x[0];
    for (int i = 1; i < kWidth<T>; ++i) m = x[i] > m ? x[i] : m;
    return m;
}

// e^x: fp32 within 1 unit in the last place, 0 below -87.3, infinity above 88.3; NaN stays NaN.
inline Vec<float> exp(Vec<float> x) {
    const Vec<float> magic = splat(kToInteger);
    Vec<float> t = x * 1.44269504088896341f + magic;
    Vec<float> n = t - magic;
    Vec<float> r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    Vec<float> p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r;
    p = p + 1.0f;
    VecInt<float> ti = (VecInt<float>)t;
    VecInt<float> bits = (ti << 23) + (127 << 23);
    Vec<float> y = p * (Vec<float>)bits;
    y = x < -87.3f ? Vec<float>{} : y;
    return x > 88.3f ? splat(std::numeric_limits<float>::infinity()) : y;
}

inline Vec<double> exp(Vec<double> x) {
    const Vec<double> magic = splat(6755399441055744.0);  // 1.5 * 2^52
    Vec<double> t = x * 1.4426950408889634074 + magic;
    Vec<double> n = t - magic;
    Vec<double> r = x - n * 6.93145751953125e-1;
    r = r - n * 1.42860682030941723212e-6;
    Vec<double> p = splat(1.0 / 6227020800.0);
    // clang-format off: a table
    const double inverse_factorials[] = {1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0,
                                         1.0 / 40320.0,     1.0 / 5040.0,     1.0 / 720.0,     1.0 / 120.0,
                                         1.0 / 24.0,        1.0 / 6.0,        0.5,             1.0, 1.0};
    // clang-format on
    for (double c : inverse_factorials) p = p * r + c;
    VecInt<double> ti = (VecInt<double>)t;
    VecInt<double> bits = (ti << 52) + (int64_t(1023) << 52);
    Vec<double> y = p * (Vec<double>)bits;
    y = x < -708.0 ? Vec<double>{} : y;
    return x > 709.0 ? splat(std::numeric_limits<double>::infinity()) : y;
}

template <class T, int Half, size_t... E> inline void exchange(Vec<T>& a, Vec<T>& b, std::index_sequence<E...>) {
    constexpr int W = kWidth<T>;
    Vec<T> low, high;
#if defined(__clang__)
    low = __builtin_shufflevector(a, b, (E & Half ? W + E - Half : E)...);
    high = __builtin_shufflevector(a, b, (E & Half ? W + E : E + Half)...);
#else
    low = __builtin_shuffle(a, b, VecInt<T>{(E & Half ? int(W + E - Half) : int(E))...});
    high = __builtin_shuffle(a, b, VecInt<T>{(E & Half ? int(W + E) : int(E + Half))...});
#endif
    a = low;
    b = high;
}

template <class T, int Half> inline void transpose_from(Vec<T>* r) {
    if constexpr (Half < kWidth<T>) {
        for (int i = 0; i < kWidth<T>; ++i)
            if (!(i & Half)) exchange<T, Half>(r[i], r[i + Half], std::make_index_sequence<kWidth<T>>());
        transpose_from<T, Half * 2>(r);
    }
}

// A square of kWidth vectors, rows become columns.
template <class T> inline void transpose(Vec<T>* r) { transpose_from<T, 1>(r); }

}  // namespace weft
