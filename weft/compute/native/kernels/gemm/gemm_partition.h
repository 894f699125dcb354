// How rows and columns of a linear operation are divided among threads, and the units that can be stolen.
#pragma once

#include "runtime/instruction.h"
#include "kernels/gemm/gemm_tile.h"
#include "kernels/quant/weight.h"

namespace weft {

constexpr int kOwnCodedRows = 192;  // from so many rows for each thread on, threads take rows and not columns
#if defined(__AMX_BF16__)
constexpr int kOwnRows = 128;
#else
constexpr int kOwnRows = 4 * kTileRows;
#endif

constexpr int64_t kEvenRows = 32;  // chunks of rows differ by no less

struct RowRange {
    int64_t first, count;
};

struct Share {
    int first_pair, last_pair;
    RowRange rows;
};

// Contiguous pairs of few rows; of many rows each thread takes its own, which then mostly lie near its core. `coded`:
// every thread will unpack the panels that it multiplies with, which must be worth it.
inline Share share_of(int pairs, bool halves, bool coded, RowRange rows, int thread, int threads) {
    int unit = halves ? 2 : 1, units = ceil_div(pairs, unit);  // 16 bf16 results are half a cache line
    bool uneven = int64_t(ceil_div(units, threads)) * threads * 8 > int64_t(units) * 9;
    if (rows.count >= int64_t(coded && !uneven ? kOwnCodedRows : kOwnRows) * threads) {
        const EvenShare own(rows.count, thread, threads);
        return {0, pairs, {rows.first + own.begin, own.size()}};
    }
    const EvenShare own(units, thread, threads);
    return {int(own.begin) * unit, std::min(pairs, int(own.end) * unit), rows};
}

// Of `rows` in chunks of `most`, how many are to be in each for all chunks to be alike, but for the last one.
inline int64_t even_chunk(int64_t rows, int64_t most) {
    const int64_t chunks = (rows + most - 1) / most;
    return chunks > 1 ? std::min(most, (rows / chunks + kEvenRows) / kEvenRows * kEvenRows) : most;
}

// The rows and pairs that a thread has, cut in parts: a chunk of rows times `unit` pairs, chunk by chunk.
struct LinearParts {
    Share share;
    int unit;
    int64_t near;  // rows of a chunk

    int64_t across() const { return ceil_div(share.last_pair - share.first_pair, unit); }
    int64_t count() const { return across() * ((share.rows.count + near - 1) / near); }

    // product.run(first pair, last pair, first row, rows) for parts [from, to).
    template <class Product> void run(Product& product, int64_t from, int64_t to) const {
        for (int64_t end; from < to; from = end) {
            const int64_t chunk = from / across(), before = chunk * across(), row = chunk * near;
            end = std::min(to, before + across());
            product.run(pair(from - before), pair(end - before), share.rows.first + row,
                        std::min(near, share.rows.count - row));
        }
    }

private:
    int pair(int64_t part) const { return int(std::min<int64_t>(share.last_pair, share.first_pair + part * unit)); }
};

// What thread `owner` of `threads` has of `rows` of the instruction's operands, times `weight`; `near`: rows of a
// chunk at most.
inline LinearParts parts_of(const Instruction& instruction, const Weight& weight, RowRange rows, int64_t near, int owner,
                            int threads) {
    const bool halves = instruction.n[EPILOGUE] == SILU_MUL_OF, coded = rounded(weight.kind) || weight.kind == W_BF16_12BIT;
    const Share share = share_of(pairs_of(weight), halves, coded && !weight.int8_activations, rows, owner, threads);
    return {share, halves ? 2 : 1, even_chunk(share.rows.count, near)};
}

}  // namespace weft
