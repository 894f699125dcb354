// The functions of packed weights that Python calls.
#pragma once

#include "kernels/quant/unpack.h"
#include "kernels/gemm/gemm.h"
#include "kernels/quant/pack.h"
#include "runtime/pool.h"

// Bytes that `data`, `scale` and `offset`, if it has one, of a weight take: sizes[0] to [2].
WEFT_C void weft_packed_sizes(int kind, int columns, int depth, int interleaved, int64_t* sizes) {
    int pairs = weft::pairs_of(columns, interleaved);
    sizes[0] = pairs * weft::pair_bytes(kind, depth);
    sizes[1] = weft::scale_bytes(kind, pairs, depth);
    sizes[2] = weft::offset_bytes(kind, pairs, depth);
}

// Whether many rows, whose products memory does not bound, lose little where numbers of bf16 take 12 bits: where vectors
// or tile registers have products of pairs, or are so short (AVX2) that products of fp32 take longer than all else. Those
// of AVX-512 lose a tenth from 8 rows on (docs/performance.md).
WEFT_C int weft_suits_bf16_12bit() {
#if defined(__AVX512BF16__) || defined(WEFT_ONLY_AVX2)
    return 1;
#else
    return 0;
#endif
}

// Bytes of Weight::lut of weights of 4 bits whose rows are not rounded; 0 where they have none.
WEFT_C int64_t weft_lut_bytes() {
#if defined(__AMX_BF16__)
    return int64_t(weft::kScaleWords) * weft::kNumbers * int64_t(sizeof(weft::bf16));
#else
    return 0;
#endif
}

// Writes it to `to`, on a cache line, for weights without offsets that share the table and the kind of scales of `like`.
WEFT_C void weft_fill_lut([[maybe_unused]] const weft::Weight* like, [[maybe_unused]] void* to) {
#if defined(__AMX_BF16__)
    weft::fill_lut(*like, static_cast<weft::bf16*>(to));
#endif
}

// 0 where `to` is of a kind that does not suit the numbers; see pack.h.
WEFT_C int weft_pack(weft::Pool* pool, const weft::Weight* to, const void* from, int format, int64_t stride_bytes,
                     const float* peaks) {
    return weft::pack(*to, static_cast<const char*>(from), format, stride_bytes, peaks, pool);
}

// out [count, depth] = rows first .. first + count of the matrix, in fp32 (fp64 for W_F64).
WEFT_C void weft_unpack(weft::Pool* pool, const weft::Weight* from, int64_t first, int64_t count, void* out) {
    weft::parallel_for(pool, int(count), [&](int r) {
        int64_t at = int64_t(r) * from->depth;
        if (from->kind == weft::W_F64) weft::gather_row(*from, first + r, static_cast<double*>(out) + at);
        else weft::gather_row(*from, first + r, static_cast<float*>(out) + at);
    });
}
