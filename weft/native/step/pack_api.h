// The functions of packed weights that Python calls. `team`: see parallel.h.
#pragma once

#include "linear.h"
#include "pack.h"

#define WEFT_C extern "C" inline __attribute__((used))

// Bytes that `data`, `scale` (or `offset`) of a weight take: sizes[0], sizes[1].
WEFT_C void weft_packed_sizes(int kind, int columns, int depth, int interleaved, int64_t* sizes) {
    int pairs = weft::pairs_of(columns, interleaved);
    sizes[0] = pairs * weft::pair_bytes(kind, depth);
    sizes[1] = weft::scale_bytes(kind, pairs, depth);
}

WEFT_C void weft_pack(const weft::Weight* to, const void* from, int format, int64_t stride_bytes, int threads,
                          void* team) {
    weft::pack(*to, static_cast<const char*>(from), format, stride_bytes, threads,
               reinterpret_cast<weft::TeamCall>(team));
}

// out [count, depth] = rows first .. first + count of the matrix, in fp32 (fp64 for W_F64).
WEFT_C void weft_unpack(const weft::Weight* from, int64_t first, int64_t count, void* out, int threads, void* team) {
    weft::deal(int(count), threads, reinterpret_cast<weft::TeamCall>(team), [&](int r) {
        int64_t at = int64_t(r) * from->depth;
        if (from->kind == weft::W_F64) weft::gather_row(*from, first + r, static_cast<double*>(out) + at);
        else weft::gather_row(*from, first + r, static_cast<float*>(out) + at);
    });
}

// A linear instruction on its own.
WEFT_C void weft_linear(const weft::Instruction* instruction, const weft::Step* step, int threads, void* team) {
    weft::deal(threads, threads, reinterpret_cast<weft::TeamCall>(team),
               [&](int thread) { weft::linear(*instruction, *step, thread, threads); });
}

// The same over slots: see grouped_linear.
WEFT_C void weft_grouped_linear(const weft::Instruction* instruction, const weft::Weight* const* weights,
                                const int64_t* ends, int slots, int threads, void* team) {
    weft::deal(threads, threads, reinterpret_cast<weft::TeamCall>(team),
               [&](int thread) { weft::grouped_linear(*instruction, weights, ends, slots, thread, threads); });
}
