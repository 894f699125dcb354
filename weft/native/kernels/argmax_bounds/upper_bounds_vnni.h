// Groups of bounds (upper_bounds.h) where vectors add four products of bytes.
#pragma once

#include "kernels/argmax_bounds/bounded_rows.h"

#if defined(__AVX512VNNI__)

namespace weft {

// Of rows so few that a sum would wait for its own last product the two halves of eight are added apart.
template <int R> constexpr int kChains = R <= 4 ? 2 : 1;
template <int R> using BoundSums = __m512i[kChains<R>][R][2];

// sum += products of bytes, four to a lane.
WEFT_INLINE void add_products(__m512i& sum, __m512i codes, __m512i both) {
#if defined(WEFT_BY_HAND)  // for tests, where the CPU has no such instruction
    sum = _mm512_dpbusd_epi32(sum, codes, both);
#else
    // as an intrinsic it is given more registers than there are
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(both));
#endif
}

// sums += the rows' codes of four of the depth times those of 32 columns.
template <int R> WEFT_INLINE void add_four(__m512i (&sums)[R][2], const __m512i (&codes)[2], const int8_t* x) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
        int four;
        std::memcpy(&four, x + 8 * r, 4);
        const __m512i both = _mm512_set1_epi32(four);
        add_products(sums[r][0], codes[0], both);
        add_products(sums[r][1], codes[1], both);
    }
}

// What lies `ahead` bytes on is fetched towards the second-level cache, which takes more at a time than the nearest.
template <int Lines> WEFT_INLINE void fetch(const uint8_t* from, int64_t ahead) {
#pragma GCC unroll 2
    for (int i = 0; i < Lines; ++i) _mm_prefetch(from + ahead + 64 * i, _MM_HINT_T1);
}

// Of a group of the depth.
template <int R, int Lines>
WEFT_INLINE void add_fine(BoundSums<R>& sums, const uint8_t* codes, const int8_t* x, int64_t ahead) {
#pragma GCC unroll 1
    for (int k = 0; k < kBoundGroup; k += 8, x += 8 * R)
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half, codes += kCodeLine) {
            const __m512i four[2] = {_mm512_loadu_si512(codes), _mm512_loadu_si512(codes + 64)};
            fetch<Lines>(codes, ahead);
            add_four<R>(sums[half * (kChains<R> - 1)], four, x + 4 * half);
        }
}

// The same out of coarse codes.
template <int R, int Lines>
WEFT_INLINE void add_coarse(BoundSums<R>& sums, const uint8_t* codes, const int8_t* x, int64_t ahead) {
    const __m512i low = _mm512_set1_epi8(15);
#pragma GCC unroll 1
    for (int k = 0; k < kBoundGroup; k += 8, x += 8 * R, codes += kCodeLine) {
        const __m512i both[2] = {_mm512_loadu_si512(codes), _mm512_loadu_si512(codes + 64)};
        const __m512i first[2] = {_mm512_and_si512(both[0], low), _mm512_and_si512(both[1], low)};
        const __m512i next[2] = {_mm512_and_si512(_mm512_srli_epi16(both[0], 4), low),
                                 _mm512_and_si512(_mm512_srli_epi16(both[1], 4), low)};
        fetch<Lines>(codes, ahead);
        add_four<R>(sums[0], first, x);
        add_four<R>(sums[kChains<R> - 1], next, x + 4);
    }
}

// Sums of a part begin with what it brings beside products.
template <int R> WEFT_INLINE void begin(BoundSums<R>& sums, const BoundedGroup* rows) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
        sums[0][r][0] = sums[0][r][1] = _mm512_set1_epi32(rows[r].start);
        if (kChains<R> > 1) sums[kChains<R> - 1][r][0] = sums[kChains<R> - 1][r][1] = __m512i{};
    }
}

WEFT_INLINE __m512 sixteen(const uint8_t* bytes) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes))));
}

// bounds += sums * scales * `steps`; for coarse values also the distances, which follow the steps in memory.
template <int R, bool Coarse>
WEFT_INLINE void add_part(Vec<float> (*bounds)[kBoundVectors], const BoundSums<R>& sums, const BoundedGroup* rows,
                          const uint8_t* steps) {
    const __m512 step[2] = {sixteen(steps), sixteen(steps + 16)};
    const __m512 apart[2] = {Coarse ? sixteen(steps + kPair) : __m512{}, Coarse ? sixteen(steps + kPair + 16) : __m512{}};
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
        const __m512 scale = _mm512_set1_ps(rows[r].scale), beside = _mm512_set1_ps(rows[r].beside);
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) {
            const __m512i whole = kChains<R> > 1 ? _mm512_add_epi32(sums[0][r][v], sums[kChains<R> - 1][r][v]) : sums[0][r][v];
            __m512 sum = _mm512_cvtepi32_ps(whole);
            if (Coarse) sum = _mm512_fmadd_ps(apart[v], beside, sum);
            bounds[r][v] = (Vec<float>)_mm512_fmadd_ps(sum, _mm512_mul_ps(step[v], scale), (__m512)bounds[r][v]);
        }
    }
}

// Groups [from, to), whose codes begin at `codes`; where they end. With every line of codes `Lines` of 64 bytes are fetched.
template <int R, bool Coarse, int Lines>
WEFT_INLINE const uint8_t* add_groups(const BoundedRows& rows, int from, int to, const uint8_t* codes, int64_t ahead,
                                      Vec<float> bounds[][kBoundVectors]) {
    const BoundedGroup* group = rows.groups + from * R;
    const int8_t* x = rows.codes + int64_t(from) * kBoundGroup * R;
    for (int g = from; g < to; ++g, group += R, x += kBoundGroup * R, codes += bound_group_bytes(!Coarse)) {
        const uint8_t* const steps = codes + bound_codes_bytes(!Coarse);
        BoundSums<R> sums;
        begin<R>(sums, group);
        if (Coarse) add_coarse<R, Lines>(sums, codes, x, ahead);
        else add_fine<R, Lines>(sums, codes, x, ahead);
        fetch<(Lines > 0)>(steps, ahead);
        add_part<R, Coarse>(bounds, sums, group, steps);
    }
    return codes;
}

}  // namespace weft

#endif
