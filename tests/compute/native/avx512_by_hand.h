// AVX-512's and AMX's instructions, as far as weft's sources use them, one element after the other: for tests, on CPUs
// that have AVX2 and not these. Included before every source; WEFT_BY_HAND says which variant is meant (1: avx512,
// 2: avx512vnni, 3: avx512bf16, 4: amx). Slow, and silent about time.
//
// Source of what each does: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, under the
// instruction's name. What the manual calls an error of tile registers ends the process.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
#if WEFT_BY_HAND >= 2
#define __AVX512VNNI__ 1
#endif
#if WEFT_BY_HAND >= 3
#define __AVX512BF16__ 1
#endif
#if WEFT_BY_HAND >= 4
#define __AMX_TILE__ 1
#define __AMX_BF16__ 1
#endif

namespace by_hand {

#define BY_HAND __attribute__((noinline)) static inline  // inlined, they take the compiler minutes

template <class T> struct Lanes {
    typedef T V __attribute__((vector_size(64)));
};
template <class T> using Of = typename Lanes<T>::V;

// Vector `To` of lanes of T, each what f makes of its number.
template <class T, class To, class F> static inline To each(F f) {
    Of<T> y;
    for (int i = 0; i < int(64 / sizeof(T)); ++i) y[i] = T(f(i));
    return (To)y;
}

// Both halves as vectors that this CPU has.
static inline __m256i low(__m512i x) {
    __m256i y;
    std::memcpy(&y, &x, 32);
    return y;
}
static inline __m256i high(__m512i x) {
    __m256i y;
    std::memcpy(&y, reinterpret_cast<const char*>(&x) + 32, 32);
    return y;
}
template <class To, class Half> static inline To joined(Half first, Half second) {
    To y;
    std::memcpy(&y, &first, 32);
    std::memcpy(reinterpret_cast<char*>(&y) + 32, &second, 32);
    return y;
}
template <class F> static inline __m512i by_halves(__m512i a, __m512i b, F f) {
    return joined<__m512i>(f(low(a), low(b)), f(high(a), high(b)));
}

// Memory.
BY_HAND __m512i loadu(const void* p) {
    __m512i x;
    std::memcpy(&x, p, 64);
    return x;
}
BY_HAND void storeu(void* p, __m512i x) { std::memcpy(p, &x, 64); }
BY_HAND void store(void* p, __m512i x) {
    if (reinterpret_cast<uintptr_t>(p) % 64) __builtin_trap();
    std::memcpy(p, &x, 64);
}
BY_HAND void store_ps(float* p, __m512 x) { store(p, (__m512i)x); }
BY_HAND __m512i maskz_loadu_epi32(__mmask16 mask, const void* p) {
    const char* bytes = static_cast<const char*>(p);
    return each<int32_t, __m512i>([&](int i) {
        int32_t word = 0;
        if (mask >> i & 1) std::memcpy(&word, bytes + 4 * i, 4);
        return word;
    });
}

// The same in every lane, and lanes one by one.
template <class T> BY_HAND __m512i set1(T x) {
    return each<T, __m512i>([&](int) { return x; });
}
BY_HAND __m512 set1_ps(float x) {
    return each<float, __m512>([&](int) { return x; });
}
template <class... Words> BY_HAND __m512i setr_epi32(Words... words) {
    static_assert(sizeof...(words) == 16);
    return (__m512i)Of<int32_t>{words...};
}
BY_HAND __m512i broadcast_i32x4(__m128i x) {
    const __m256i twice = _mm256_broadcastsi128_si256(x);
    return joined<__m512i>(twice, twice);
}
BY_HAND __m512i broadcast_i64x4(__m256i x) { return joined<__m512i>(x, x); }
BY_HAND __m512i zextsi128_si512(__m128i x) {
    __m512i y = {};
    std::memcpy(&y, &x, 16);
    return y;
}
BY_HAND __m512i castsi256_si512(__m256i x) { return joined<__m512i>(x, _mm256_setzero_si256()); }
BY_HAND __m512i inserti32x4(__m512i x, __m128i part, int at) {
    std::memcpy(reinterpret_cast<char*>(&x) + 16 * at, &part, 16);
    return x;
}
BY_HAND __m512i inserti64x4(__m512i x, __m256i part, int at) {
    std::memcpy(reinterpret_cast<char*>(&x) + 32 * at, &part, 32);
    return x;
}
BY_HAND __m256i extracti64x4(__m512i x, int at) { return at ? high(x) : low(x); }

// Bits.
BY_HAND __m512i and_si512(__m512i a, __m512i b) { return a & b; }
BY_HAND __m512i srli_epi16(__m512i x, unsigned by) { return by > 15 ? __m512i{} : (__m512i)((Of<uint16_t>)x >> uint16_t(by)); }
BY_HAND __m512i srli_epi32(__m512i x, unsigned by) { return by > 31 ? __m512i{} : (__m512i)((Of<uint32_t>)x >> by); }
BY_HAND __m512i slli_epi32(__m512i x, unsigned by) { return by > 31 ? __m512i{} : (__m512i)((Of<uint32_t>)x << by); }
BY_HAND __m512i ternarylogic(__m512i a, __m512i b, __m512i c, int table) {
    __m512i y = {};
    for (int i = 0; i < 8; ++i)
        if (table >> i & 1) y |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return y;
}
BY_HAND __mmask16 test_epi32_mask(__m512i a, __m512i b) {
    const Of<int32_t> both = (Of<int32_t>)(a & b);
    unsigned mask = 0;
    for (int i = 0; i < 16; ++i) mask |= unsigned(both[i] != 0) << i;
    return __mmask16(mask);
}

// Places.
BY_HAND __m512 permutexvar_ps(__m512i from, __m512 x) {
    return each<float, __m512>([&](int i) { return x[((Of<int32_t>)from)[i] & 15]; });
}
BY_HAND __m512i maskz_permutexvar_epi16(__mmask32 mask, __m512i from, __m512i x) {
    const Of<uint16_t> words = (Of<uint16_t>)x, places = (Of<uint16_t>)from;
    return each<uint16_t, __m512i>([&](int i) { return mask >> i & 1 ? words[places[i] & 31] : 0; });
}
BY_HAND __m512i permutex2var_epi32(__m512i a, __m512i from, __m512i b) {
    const Of<int32_t> first = (Of<int32_t>)a, second = (Of<int32_t>)b, places = (Of<int32_t>)from;
    return each<int32_t, __m512i>([&](int i) { return places[i] & 16 ? second[places[i] & 15] : first[places[i] & 15]; });
}
BY_HAND __m512i shuffle_epi8(__m512i x, __m512i from) {
    return by_halves(x, from, [](__m256i a, __m256i b) { return _mm256_shuffle_epi8(a, b); });
}
BY_HAND __m512i unpacklo_epi32(__m512i a, __m512i b) {
    return by_halves(a, b, [](__m256i x, __m256i y) { return _mm256_unpacklo_epi32(x, y); });
}
BY_HAND __m512i unpackhi_epi32(__m512i a, __m512i b) {
    return by_halves(a, b, [](__m256i x, __m256i y) { return _mm256_unpackhi_epi32(x, y); });
}
BY_HAND __m512i unpacklo_epi64(__m512i a, __m512i b) {
    return by_halves(a, b, [](__m256i x, __m256i y) { return _mm256_unpacklo_epi64(x, y); });
}
BY_HAND __m512i unpackhi_epi64(__m512i a, __m512i b) {
    return by_halves(a, b, [](__m256i x, __m256i y) { return _mm256_unpackhi_epi64(x, y); });
}

// Arithmetic.
BY_HAND __m512i add_epi32(__m512i a, __m512i b) { return (__m512i)((Of<uint32_t>)a + (Of<uint32_t>)b); }
BY_HAND __m512i add_epi16(__m512i a, __m512i b) { return (__m512i)((Of<uint16_t>)a + (Of<uint16_t>)b); }
BY_HAND __m512i sub_epi16(__m512i a, __m512i b) { return (__m512i)((Of<uint16_t>)a - (Of<uint16_t>)b); }
BY_HAND __m512 add_ps(__m512 a, __m512 b) { return a + b; }
BY_HAND __m512 mul_ps(__m512 a, __m512 b) { return a * b; }
BY_HAND __m512 max_ps(__m512 a, __m512 b) { return a > b ? a : b; }
BY_HAND __m512 min_ps(__m512 a, __m512 b) { return a < b ? a : b; }
BY_HAND __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
    const auto half = [](__m256i x, __m256i y, __m256i z) { return _mm256_fmadd_ps((__m256)x, (__m256)y, (__m256)z); };
    const __m512i x = (__m512i)a, y = (__m512i)b, z = (__m512i)c;
    return joined<__m512>(half(low(x), low(y), low(z)), half(high(x), high(y), high(z)));
}
BY_HAND __m512d fmadd_pd(__m512d a, __m512d b, __m512d c) {
    const auto half = [](__m256i x, __m256i y, __m256i z) { return _mm256_fmadd_pd((__m256d)x, (__m256d)y, (__m256d)z); };
    const __m512i x = (__m512i)a, y = (__m512i)b, z = (__m512i)c;
    return joined<__m512d>(half(low(x), low(y), low(z)), half(high(x), high(y), high(z)));
}
BY_HAND __m512 roundscale_nearest(__m512 x) {
    return each<float, __m512>([&](int i) { return std::nearbyintf(x[i]); });
}
BY_HAND __m512 scalef_ps(__m512 x, __m512 by) {
    return each<float, __m512>([&](int i) {
        const float infinity = std::numeric_limits<float>::infinity(), zero_or_infinity = by[i] < 0 ? 0.0f : infinity;
        if (std::isnan(by[i])) return by[i];
        if (!std::isinf(by[i])) return std::ldexp(x[i], int(std::fmin(std::fmax(std::floor(by[i]), -1000.0f), 1000.0f)));
        if (std::isnan(x[i])) return zero_or_infinity;  // whatever is scaled
        if (by[i] < 0 ? std::isinf(x[i]) : x[i] == 0) return std::numeric_limits<float>::quiet_NaN();
        return std::copysign(zero_or_infinity, x[i]);
    });
}
// No instruction: in the order of the compiler's own (avx512fintrin.h), upper lanes first while halves are vectors.
template <class F> static inline float reduced(__m512 x, F f) {
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; ++i) x[i] = half >= 4 ? f(x[i + half], x[i]) : f(x[i], x[i + half]);
    return x[0];
}
BY_HAND float reduce_add_ps(__m512 x) {
    return reduced(x, [](float a, float b) { return a + b; });
}
BY_HAND float reduce_max_ps(__m512 x) {
    return reduced(x, [](float a, float b) { return a > b ? a : b; });
}
BY_HAND __mmask16 fpclass_ps_mask(__m512 x, int classes) {
    unsigned mask = 0;
    for (int i = 0; i < 16; ++i) {
        const uint32_t bits = ((Of<uint32_t>)x)[i], size = bits & 0x7fffffff;
        const bool negative = bits >> 31, quiet = size >> 22 & 1, number = size > 0x7f800000;
        int is = 0;
        if (number) is = quiet ? 0x01 : 0x80;
        else if (size == 0) is = negative ? 0x04 : 0x02;
        else if (size == 0x7f800000) is = negative ? 0x10 : 0x08;
        else if (size < 0x00800000) is = negative ? 0x60 : 0x20;
        else is = negative ? 0x40 : 0;
        mask |= unsigned((is & classes) != 0) << i;
    }
    return __mmask16(mask);
}

// From one kind of number to another.
BY_HAND __m512i cvtepu16_epi32(__m256i x) {
    typedef uint16_t Half __attribute__((vector_size(32)));
    return each<int32_t, __m512i>([&](int i) { return ((Half)x)[i]; });
}
BY_HAND __m512i cvtepu8_epi32(__m128i x) {
    typedef uint8_t Quarter __attribute__((vector_size(16)));
    return each<int32_t, __m512i>([&](int i) { return ((Quarter)x)[i]; });
}
BY_HAND __m512 cvtepi32_ps(__m512i x) { return joined<__m512>(_mm256_cvtepi32_ps(low(x)), _mm256_cvtepi32_ps(high(x))); }
BY_HAND __m128i cvtepi32_epi8(__m512i x) {
    typedef int8_t Quarter __attribute__((vector_size(16)));
    Quarter y;
    for (int i = 0; i < 16; ++i) y[i] = int8_t(((Of<int32_t>)x)[i]);
    return (__m128i)y;
}
BY_HAND __m512 cvtph_ps(__m256i x) {
    return joined<__m512>(_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1)));
}

#if WEFT_BY_HAND >= 2
BY_HAND __m512i dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
    const Of<uint8_t> left = (Of<uint8_t>)a;
    const Of<int8_t> right = (Of<int8_t>)b;
    return each<uint32_t, __m512i>([&](int i) {
        int32_t products = 0;
        for (int j = 4 * i; j < 4 * i + 4; ++j) products += int32_t(left[j]) * int32_t(right[j]);
        return ((Of<uint32_t>)sum)[i] + uint32_t(products);
    });
}
#endif

#if WEFT_BY_HAND >= 3
// Instructions of bf16 neither read numbers below the least normal one nor write them.
static inline float flushed(float x) { return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x; }
static inline float wide(uint16_t half) {
    const uint32_t bits = uint32_t(half) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return flushed(x);
}
static inline float fused(float a, float b, float c) { return flushed(__builtin_fmaf(a, b, c)); }
static inline uint16_t narrow(float x) {
    uint32_t bits;
    x = flushed(x);
    std::memcpy(&bits, &x, 4);
    if (x != x) return uint16_t(bits >> 16 | 0x40);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
BY_HAND __m512bh cvtne2ps_pbh(__m512 upper, __m512 lower) {
    return each<uint16_t, __m512bh>([&](int i) { return narrow(i < 16 ? lower[i & 15] : upper[i & 15]); });
}
BY_HAND __m256i cvtneps_pbh(__m512 x) { return low((__m512i)cvtne2ps_pbh(x, x)); }
BY_HAND __m512 dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
    const Of<uint16_t> left = (Of<uint16_t>)a, right = (Of<uint16_t>)b;
    return each<float, __m512>([&](int i) {
        const float odd = fused(wide(left[2 * i + 1]), wide(right[2 * i + 1]), flushed(sum[i]));
        return fused(wide(left[2 * i]), wide(right[2 * i]), odd);
    });
}
#endif

#if WEFT_BY_HAND >= 4
struct Tiles {
    static constexpr int kCount = 8, kRows = 16, kBytes = 64;
    bool configured = false;
    int rows[kCount] = {}, bytes[kCount] = {};
    alignas(64) char of[kCount][kRows][kBytes] = {};

    void must_be(bool legal) const {
        if (!legal) __builtin_trap();
    }
    void configure(const void* to) {
        const auto* shape = static_cast<const uint8_t*>(to);
        must_be(shape[0] == 1 && shape[1] == 0);
        for (int i = 2; i < 64; ++i) must_be(shape[i] == 0 || (i >= 16 && i < 32) || (i >= 48 && i < 56));
        *this = {};
        configured = true;
        for (int i = 0; i < kCount; ++i) {
            uint16_t wide;
            std::memcpy(&wide, shape + 16 + 2 * i, 2);
            rows[i] = shape[48 + i], bytes[i] = wide;
            must_be(rows[i] <= kRows && bytes[i] <= kBytes && bytes[i] % 4 == 0 && !rows[i] == !bytes[i]);
        }
    }
    void use(int tile) const { must_be(configured && rows[tile]); }
    void load(int tile, const void* from, int64_t stride) {
        use(tile);
        zero(tile);
        for (int r = 0; r < rows[tile]; ++r)
            std::memcpy(of[tile][r], static_cast<const char*>(from) + r * stride, size_t(bytes[tile]));
    }
    void store(int tile, void* to, int64_t stride) const {
        use(tile);
        for (int r = 0; r < rows[tile]; ++r) std::memcpy(static_cast<char*>(to) + r * stride, of[tile][r], size_t(bytes[tile]));
    }
    void zero(int tile) {
        use(tile);
        std::memset(of[tile], 0, sizeof of[tile]);
    }
    float half(int tile, int row, int column) const {
        uint16_t bits;
        std::memcpy(&bits, of[tile][row] + 2 * column, 2);
        return wide(bits);
    }
    void multiply(int sum, int a, int b) {  // even and odd neighbours of the depth have sums of their own until the end
        use(sum), use(a), use(b);
        must_be(sum != a && sum != b && a != b);
        must_be(rows[sum] == rows[a] && bytes[sum] == bytes[b] && bytes[a] / 4 == rows[b]);
        for (int r = 0; r < rows[sum]; ++r)
            for (int c = 0; c < bytes[sum] / 4; ++c) {
                float even = 0, odd = 0, whole;
                for (int k = 0; k < bytes[a] / 4; ++k) {
                    even = fused(half(a, r, 2 * k), half(b, k, 2 * c), even);
                    odd = fused(half(a, r, 2 * k + 1), half(b, k, 2 * c + 1), odd);
                }
                std::memcpy(&whole, of[sum][r] + 4 * c, 4);
                whole = flushed(flushed(whole) + flushed(even + odd));
                std::memcpy(of[sum][r] + 4 * c, &whole, 4);
            }
    }
};
inline Tiles& tiles() {
    static thread_local Tiles own;
    return own;
}
#endif

}  // namespace by_hand

#define _mm512_loadu_si512 ::by_hand::loadu
#define _mm512_storeu_si512 ::by_hand::storeu
#define _mm512_store_si512 ::by_hand::store
#define _mm512_store_ps ::by_hand::store_ps
#define _mm512_maskz_loadu_epi32 ::by_hand::maskz_loadu_epi32
#define _mm512_set1_epi8(x) ::by_hand::set1(int8_t(x))
#define _mm512_set1_epi16(x) ::by_hand::set1(int16_t(x))
#define _mm512_set1_epi32(x) ::by_hand::set1(int32_t(x))
#define _mm512_set1_epi64(x) ::by_hand::set1(int64_t(x))
#define _mm512_set1_ps ::by_hand::set1_ps
#define _mm512_setzero_ps() (__m512{})
#undef _mm512_setr_epi32
#define _mm512_setr_epi32 ::by_hand::setr_epi32
#define _mm512_broadcast_i32x4 ::by_hand::broadcast_i32x4
#define _mm512_broadcast_i64x4 ::by_hand::broadcast_i64x4
#define _mm512_zextsi128_si512 ::by_hand::zextsi128_si512
#define _mm512_castsi256_si512 ::by_hand::castsi256_si512
#define _mm512_castsi512_si256 ::by_hand::low
#define _mm512_castsi512_ps(x) ((__m512)(x))
#define _mm512_inserti32x4 ::by_hand::inserti32x4
#define _mm512_inserti64x4 ::by_hand::inserti64x4
#define _mm512_extracti64x4_epi64 ::by_hand::extracti64x4
#define _mm512_and_si512 ::by_hand::and_si512
#define _mm512_srli_epi16 ::by_hand::srli_epi16
#define _mm512_srli_epi32 ::by_hand::srli_epi32
#define _mm512_slli_epi32 ::by_hand::slli_epi32
#define _mm512_ternarylogic_epi32 ::by_hand::ternarylogic
#define _mm512_test_epi32_mask ::by_hand::test_epi32_mask
#define _mm512_permutexvar_ps ::by_hand::permutexvar_ps
#define _mm512_maskz_permutexvar_epi16 ::by_hand::maskz_permutexvar_epi16
#define _mm512_permutex2var_epi32 ::by_hand::permutex2var_epi32
#define _mm512_shuffle_epi8 ::by_hand::shuffle_epi8
#define _mm512_unpacklo_epi32 ::by_hand::unpacklo_epi32
#define _mm512_unpackhi_epi32 ::by_hand::unpackhi_epi32
#define _mm512_unpacklo_epi64 ::by_hand::unpacklo_epi64
#define _mm512_unpackhi_epi64 ::by_hand::unpackhi_epi64
#define _mm512_add_epi32 ::by_hand::add_epi32
#define _mm512_add_epi16 ::by_hand::add_epi16
#define _mm512_sub_epi16 ::by_hand::sub_epi16
#define _mm512_add_ps ::by_hand::add_ps
#define _mm512_mul_ps ::by_hand::mul_ps
#define _mm512_max_ps ::by_hand::max_ps
#define _mm512_min_ps ::by_hand::min_ps
#define _mm512_fmadd_ps ::by_hand::fmadd_ps
#define _mm512_fmadd_pd ::by_hand::fmadd_pd
#undef _mm512_roundscale_ps
#define _mm512_roundscale_ps(x, how) \
    ([&] { static_assert((how) == (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); }(), ::by_hand::roundscale_nearest(x))
#define _mm512_scalef_ps ::by_hand::scalef_ps
#define _mm512_reduce_add_ps ::by_hand::reduce_add_ps
#define _mm512_reduce_max_ps ::by_hand::reduce_max_ps
#undef _mm512_fpclass_ps_mask
#define _mm512_fpclass_ps_mask ::by_hand::fpclass_ps_mask
#define _mm512_cvtepu16_epi32 ::by_hand::cvtepu16_epi32
#define _mm512_cvtepu8_epi32 ::by_hand::cvtepu8_epi32
#define _mm512_cvtepi32_ps ::by_hand::cvtepi32_ps
#define _mm512_cvtepi32_epi8 ::by_hand::cvtepi32_epi8
#define _mm512_cvtph_ps ::by_hand::cvtph_ps
#define _mm512_dpbusd_epi32 ::by_hand::dpbusd_epi32
#define _mm512_cvtne2ps_pbh ::by_hand::cvtne2ps_pbh
#define _mm512_cvtneps_pbh ::by_hand::cvtneps_pbh
#define _mm512_dpbf16_ps ::by_hand::dpbf16_ps
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#define _tile_loadconfig(to) ::by_hand::tiles().configure(to)
#define _tile_release() ::by_hand::tiles() = {}
#define _tile_loadd(tile, from, stride) ::by_hand::tiles().load(tile, from, stride)
#define _tile_stored(tile, to, stride) ::by_hand::tiles().store(tile, to, stride)
#define _tile_zero(tile) ::by_hand::tiles().zero(tile)
#define _tile_dpbf16ps(sum, a, b) ::by_hand::tiles().multiply(sum, a, b)
