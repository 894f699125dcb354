// Bounds of the logits of a few rows and a pair's columns: products of the rows' codes with the matrix's (bounded_rows.h,
// lm_head_sketch.h).
#pragma once

#include <array>

#include "kernels/argmax_bounds/upper_bounds_avx2.h"
#include "kernels/argmax_bounds/upper_bounds_vnni.h"

#if defined(__AVX512VNNI__) || defined(WEFT_ONLY_AVX2)
#define WEFT_BOUNDS_LOGITS 1

namespace weft {

// Of the pair at `codes` of a stream with coarse codes, or without; what is fetched lies `ahead`.
template <int R, bool Few, int Lines>
inline void bounds_of(const BoundedRows& rows, const BoundStream& stream, const uint8_t* codes, int64_t ahead,
                      Vec<float> bounds[][kBoundVectors]) {
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < kBoundVectors; ++v) bounds[r][v] = Vec<float>{};
    codes = add_groups<R, false, Lines>(rows, 0, stream.fine, codes, ahead, bounds);
    if (Few) codes = add_groups<R, true, Lines>(rows, stream.fine, stream.groups, codes, ahead, bounds);
    for (int i = 0; i < Lines; ++i) _mm_prefetch(codes + ahead + 64 * i, _MM_HINT_T1);
    const float* const units = reinterpret_cast<const float*>(codes);
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < kBoundVectors; ++v)
            bounds[r][v] = fused(bounds[r][v], load(units + v * kWidth<float>), splat(rows.shifts[r]));
}

using BoundsOf = void (*)(const BoundedRows&, const BoundStream&, const uint8_t*, int64_t, Vec<float>[][kBoundVectors]);
template <bool Few, int Lines, size_t... R>
constexpr std::array<BoundsOf, sizeof...(R)> bounds_of_rows(std::index_sequence<R...>) {
    return {bounds_of<int(R) + 1, Few, Lines>...};
}

// The highest of a row's.
WEFT_INLINE float highest_bound(const Vec<float> (&bounds)[kBoundVectors]) {
    Vec<float> most = bounds[0];
    for (int v = 1; v < kBoundVectors; ++v) most = bounds[v] > most ? bounds[v] : most;
    return highest_of(most);
}

}  // namespace weft

#endif
