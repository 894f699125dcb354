// Products in tile registers where a weight's columns stand for rows, and up to 32 rows for columns: numbers that are taken
// from codes column by column are multiplied as they come, and only few rows are turned around. The registers add up the
// depth in the same order either way.
#pragma once

#include <algorithm>

#include "kernels/gemm/amx_double_buffer.h"
#include "kernels/gemm/gemm_dequant.h"
#include "kernels/common/amx_registers.h"
#include "kernels/common/row_pointers.h"
#include "kernels/common/scratch.h"
#include "kernels/common/transpose.h"

#if defined(__AMX_BF16__)

namespace weft {

// Up to 32 rows transposed into pairs of the depth: [depth / 2][16][2] for the first 16 rows, then the same for the others. A
// single row stays as it is. The depth is padded with zeros. Valid for one GEMM, whose rows must not change meanwhile; a
// thread has one at a time.
class TurnedRows {
public:
    static constexpr int kBeside = 16;  // rows that lie beside each other

    // Those of `count` rows from `a` on, of which the depth [0, depth) is there; the same rows are turned once.
    void take(Rows<bf16> a, int count, int depth) {
        if (a.first == first_ && count == count_) return;
        first_ = a.first, count_ = count, pairs_ = ceil_div(depth, kGroup) * kGroup / 2;
        const int blocks = ceil_div(count, kBeside);
        words_ = scratch<TURNED_SCRATCH>().take<uint32_t>(size_t(blocks) * pairs_ * kBeside);
        if (count == 1) return fill(a.first, depth, reinterpret_cast<bf16*>(words_));
        for (int b = 0; b < blocks; ++b)
            turn({a.first + int64_t(b) * kBeside * a.stride, a.stride}, std::min(kBeside, count - b * kBeside), depth,
                 words_ + int64_t(b) * pairs_ * kBeside);
    }

    // Of the second 16 rows, if `second`, the depth from `k` on, a multiple of kGroup.
    const uint32_t* at(int k, bool second) const { return words_ + (second ? pairs_ * kBeside : 0) + k / 2 * beside(); }
    int step_bytes() const { return 4 * beside(); }  // from pair to pair of the depth

private:
    enum Use : int { TURNED_SCRATCH = 116 };

    int beside() const { return count_ == 1 ? 1 : kBeside; }

    // Up to the next group.
    static void fill(const bf16* row, int depth, bf16* to) {
        std::memcpy(to, row, size_t(depth) * sizeof(bf16));
        std::memset(to + depth, 0, size_t(-depth & (kGroup - 1)) * sizeof(bf16));
    }

    void turn(Rows<bf16> a, int count, int depth, uint32_t* to) const {
        for (int k = 0; k < depth; k += kGroup, to += kGroup / 2 * kBeside) {
            alignas(64) bf16 rows[kBeside][kGroup];
            const bool whole = depth - k >= kGroup;
            for (int r = 0; r < count && !whole; ++r) fill(a.first + r * a.stride + k, depth - k, rows[r]);
            turn_square(
                count,
                [&](int r) WEFT_LAMBDA_INLINE {
                    r = std::min(r, count - 1);
                    return whole ? a.first + r * a.stride + k : rows[r];
                },
                [&](int p, __m512i words) WEFT_LAMBDA_INLINE { _mm512_storeu_si512(to + p * kBeside, words); });
        }
    }

    const bf16* first_ = nullptr;
    int count_ = 0, pairs_ = 0;
    uint32_t* words_ = nullptr;
};

// Up to 32 rows times the columns of a pair.
class ColumnsTimesRows {
public:
    // tile[r][0 .. 32) = sum over all of the depth of a[r][k] * the pair's number, for up to 32 rows, of pairs [first, last)
    // one after the other, each followed by done(pair); `ring`: room for kRing groups. Vectors take the next group from codes,
    // a pair's first one too, while registers multiply with the one before.
    template <class Done>
    void operator()(AmxRegisters& registers, const Weight& w, int first, int last, Rows<bf16> a, int count, float* tile,
                    bf16* ring, const Done& done) {
        rows_.take(a, count, w.depth);
        const int left = std::min(count, TurnedRows::kBeside), right = count - left;
        registers.shape_columns(left, right);
        const auto put = [&](int pair) { put_down(left, right, tile), done(pair); };
        right ? multiply<true>(w, first, last, ring, put) : multiply<false>(w, first, last, ring, put);
    }

private:
    static constexpr int kSquare = TurnedRows::kBeside * kPair / 2;

    template <bool Both, class Put> void multiply(const Weight& w, int first, int last, bf16* ring, const Put& put) const {
        with_groups_laid_ahead<CodesByColumn>(
            w, first, last, ring,
            [&](const CodesByColumn& codes, int k, bf16* to) WEFT_LAMBDA_INLINE {
                FetchChunks<CodesByColumn>{codes}.begin(k / kGroup);
                codes.lay_columns(k / kGroup, w.depth - k, to);
            },
            [] {
                _tile_zero(0);
                _tile_zero(1);
                if (Both) {
                    _tile_zero(2);
                    _tile_zero(3);
                }
            },
            [&](int k, const bf16* group) WEFT_LAMBDA_INLINE { step<Both>(group, k); }, put);
    }

    template <bool Both> WEFT_INLINE void step(const bf16* columns, int k) const {
        const int step_bytes = rows_.step_bytes();
        _tile_loadd(4, columns, 64);
        _tile_loadd(6, rows_.at(k, false), step_bytes);
        _tile_loadd(5, columns + kPair / 2 * kGroup, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        if (Both) {
            _tile_loadd(7, rows_.at(k, true), step_bytes);
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
    }

    static void put_down(int left, int right, float* tile) {
        if (left == 1) {
            _tile_stored(0, tile, 4);
            _tile_stored(1, tile + kPair / 2, 4);
            return settle_memory();
        }
        alignas(64) float columns[2][kSquare];
        _tile_stored(0, columns[0], 64);
        _tile_stored(1, columns[1], 64);
        turn_around(columns, left, tile);
        if (!right) return;
        _tile_stored(2, columns[0], 64);
        _tile_stored(3, columns[1], 64);
        turn_around(columns, right, tile + left * kPair);
    }

    // Columns of `count` rows, turned around.
    static void turn_around(const float (&columns)[2][kSquare], int count, float* tile) {
        settle_memory();
        for (int half = 0; half < 2; ++half)
            turn_square(
                TurnedRows::kBeside, [&](int c) WEFT_LAMBDA_INLINE { return columns[half] + c * TurnedRows::kBeside; },
                [&](int r, __m512i words) WEFT_LAMBDA_INLINE {
                    if (r < count) _mm512_storeu_si512(tile + r * kPair + half * kPair / 2, words);
                });
    }

    TurnedRows rows_;
};

}  // namespace weft

#endif
