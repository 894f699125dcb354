// Ordered sums: added in the order of `from`, one of which may be where the sums go; half types are widened to fp32 and
// rounded once.
#pragma once

#include <stdint.h>
#include <string.h>

#include <algorithm>
#if defined(__F16C__) || defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

enum DType : int { F32 = 0, F64, BF16, F16, I32, I64 };

inline float widen_bf16(uint16_t v) {
    uint32_t bits = static_cast<uint32_t>(v) << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
inline uint16_t narrow_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint16_t rounded = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    return f != f ? static_cast<uint16_t>(0x7fc0) : rounded;
}
#if defined(__F16C__)
inline float widen_f16(uint16_t v) { return _cvtsh_ss(v); }
inline uint16_t narrow_f16(float f) { return _cvtss_sh(f, 0); }
#else
inline float widen_f16(uint16_t v) {
    uint32_t sign = static_cast<uint32_t>(v & 0x8000) << 16, exponent = (v >> 10) & 31, mantissa = v & 1023, bits;
    if (exponent == 31) bits = sign | 0x7f800000 | (mantissa << 13);
    else if (exponent) bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
    else {
        float small = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24
        memcpy(&bits, &small, 4);
        bits |= sign;
    }
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
inline uint16_t narrow_f16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint32_t sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
    if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);
    if (magnitude < 0x38800000) {  // a subnormal half: adding 0.5 leaves its rounded mantissa in the low bits
        float positive;
        memcpy(&positive, &magnitude, 4);
        positive += 0.5f;
        memcpy(&bits, &positive, 4);
        return static_cast<uint16_t>(sign | (bits - 0x3f000000));
    }
    magnitude += 0xfff + ((magnitude >> 13) & 1);
    return static_cast<uint16_t>(sign | ((magnitude - 0x38000000) >> 13));
}
#endif

template <class T> void sum_plain(T* out, const char* const* from, uint32_t n, uint64_t count) {
    constexpr uint64_t TILE = 1024;
    T sum[TILE];
    for (uint64_t at = 0; at < count; at += TILE) {
        uint64_t m = std::min(TILE, count - at);
        const T *a = reinterpret_cast<const T*>(from[0]) + at, *b = reinterpret_cast<const T*>(from[1]) + at;
        for (uint64_t i = 0; i < m; i++) sum[i] = a[i] + b[i];
        for (uint32_t j = 2; j < n; j++) {
            const T* s = reinterpret_cast<const T*>(from[j]) + at;
            for (uint64_t i = 0; i < m; i++) sum[i] += s[i];
        }
        memcpy(out + at, sum, m * sizeof(T));
    }
}

// From number `at` on.
template <float (*widen)(uint16_t), uint16_t (*narrow)(float)>
void sum_half(uint16_t* out, const char* const* from, uint32_t n, uint64_t count, uint64_t at = 0) {
    constexpr uint64_t TILE = 1024;
    float sum[TILE];
    for (; at < count; at += TILE) {
        uint64_t m = std::min(TILE, count - at);
        for (uint32_t j = 0; j < n; j++) {
            const uint16_t* __restrict s = reinterpret_cast<const uint16_t*>(from[j]) + at;
            if (j == 0)
                for (uint64_t i = 0; i < m; i++) sum[i] = widen(s[i]);
            else
                for (uint64_t i = 0; i < m; i++) sum[i] += widen(s[i]);
        }
        for (uint64_t i = 0; i < m; i++) out[at + i] = narrow(sum[i]);
    }
}

#if defined(__AVX512BF16__) && defined(__AVX512DQ__)
inline __m512 widened_bf16(const char* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

// As sum_half, twice as fast: rounded by the CPU, but for numbers that it would round in a way of its own.
inline void sum_bf16(uint16_t* out, const char* const* from, uint32_t n, uint64_t count) {
    constexpr int STEP = 32, ROUNDED_OTHERWISE = 0x81 | 0x20;  // quiet and signalling NaN, denormal
    uint64_t at = 0;
    for (; at + STEP <= count; at += STEP) {
        __m512 low = widened_bf16(from[0] + 2 * at), high = widened_bf16(from[0] + 2 * at + STEP);
        for (uint32_t j = 1; j < n; j++) {
            low = _mm512_add_ps(low, widened_bf16(from[j] + 2 * at));
            high = _mm512_add_ps(high, widened_bf16(from[j] + 2 * at + STEP));
        }
        const auto special = [](__m512 x) { return _mm512_fpclass_ps_mask(x, ROUNDED_OTHERWISE); };
        if (__builtin_expect(special(low) | special(high), 0)) {
            alignas(64) float sums[STEP];
            _mm512_store_ps(sums, low), _mm512_store_ps(sums + 16, high);
            for (int i = 0; i < STEP; i++) out[at + i] = narrow_bf16(sums[i]);
        } else {
            _mm512_storeu_si512(out + at, (__m512i)_mm512_cvtne2ps_pbh(high, low));
        }
    }
    sum_half<widen_bf16, narrow_bf16>(out, from, n, count, at);
}
#else
inline void sum_bf16(uint16_t* out, const char* const* from, uint32_t n, uint64_t count) {
    sum_half<widen_bf16, narrow_bf16>(out, from, n, count);
}
#endif

uint64_t item_bytes(int dtype) { return dtype == F64 || dtype == I64 ? 8 : dtype == F32 || dtype == I32 ? 4 : 2; }

void ordered_sum(char* out, const char* const* from, uint32_t n, uint64_t count, int dtype) {
    switch (dtype) {
        case F32: return sum_plain(reinterpret_cast<float*>(out), from, n, count);
        case F64: return sum_plain(reinterpret_cast<double*>(out), from, n, count);
        case I32: return sum_plain(reinterpret_cast<uint32_t*>(out), from, n, count);  // unsigned: wraps as torch does
        case I64: return sum_plain(reinterpret_cast<uint64_t*>(out), from, n, count);
        case BF16: return sum_bf16(reinterpret_cast<uint16_t*>(out), from, n, count);
        case F16: return sum_half<widen_f16, narrow_f16>(reinterpret_cast<uint16_t*>(out), from, n, count);
    }
}

template <float (*widen)(uint16_t)>
void add_halves(float* sum, const char* const* from, uint32_t n, uint64_t count, bool first) {
    for (uint32_t j = 0; j < n; j++) {
        const uint16_t* x = reinterpret_cast<const uint16_t*>(from[j]);
        if (first && j == 0)
            for (uint64_t i = 0; i < count; i++) sum[i] = widen(x[i]);
        else
            for (uint64_t i = 0; i < count; i++) sum[i] += widen(x[i]);
    }
}

// sum (+)= from[0] + from[1] + ..., half types in fp32 and not yet rounded; `first`: nothing is in `sum` yet.
void add_widened(float* sum, const char* const* from, uint32_t n, uint64_t count, int dtype, bool first) {
    if (dtype == BF16) add_halves<widen_bf16>(sum, from, n, count, first);
    else add_halves<widen_f16>(sum, from, n, count, first);
}

void narrow_sums(char* out, const float* sum, uint64_t count, int dtype) {
    uint16_t* half = reinterpret_cast<uint16_t*>(out);
    for (uint64_t i = 0; i < count; i++) half[i] = dtype == BF16 ? narrow_bf16(sum[i]) : narrow_f16(sum[i]);
}

}  // namespace
