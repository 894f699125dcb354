// Products in the CPU's tile registers (AMX): up to 32 rows times the columns of a pair, 32 of the depth at a time. The
// panels of weight.h are what the registers want, as they lie; codes are laid in panels while others are multiplied. Where
// they lie by columns, few rows are multiplied with columns as they are: see gemm_amx_t.h.
#pragma once

#include <algorithm>

#include "kernels/gemm/gemm_amx_t.h"
#include "kernels/gemm/gemm_dequant.h"
#include "kernels/gemm/gemm_tile.h"
#include "kernels/common/amx_registers.h"

#if defined(__AMX_BF16__)

namespace weft {

struct InAmx {
    using A = bf16;
    using B = bf16;
    using Sum = float;
    static constexpr int kDepth = 2, kColumns = kPair, kRows = 32;
    // A tile of 32 rows costs what one of 17 does: all but the last are whole.
    static int rows_of_block(int64_t left, int64_t) { return int(left < kRows ? left : kRows); }
    // Rows and columns of a slab pass through the nearest cache together; few blocks of rows would not pay for it.
    static constexpr int kMostSlab = 288, kWholeDepth = 2 * kRows;
    static constexpr int64_t kMostFarRows = 800 << 10;  // beside tile registers there are 2 MiB of second-level cache
    // What is laid should stay there beside its codes; many blocks of rows pay for more of it.
    static int panel_depth(int64_t rows) { return rows <= kManyRows ? 192 : kMostSlab; }
    static constexpr bool kFetchesTwoLines = false;
    static constexpr bool kLaysCodes = true;  // TileOf does, beside products
};

template <> class TileOf<InAmx> {
public:
    // tile[r][0 .. 32) (+)= sum over `depth` of a[r][k] * b[k][..], for `count` rows; b as W_BF16 lies.
    void operator()(Rows<bf16> a, int count, const bf16* b, int depth, int lines, Ahead ahead, float* tile, bool resume) {
        registers_.shape(std::min(count, 16), std::max(count - 16, 0));
        if (count > 16) multiply<true>(a, count, b, depth, lines, ahead, tile, resume);
        else multiply<false>(a, count, b, depth, lines, ahead, tile, resume);
    }

    // The same of numbers that come as codes, of pairs [first, last) of all the depth: vectors lay the next group of the depth
    // while registers multiply with the one before. done(pair) when a pair's sums are in `tile`; `ring`: room for kRing groups.
    template <class Done>
    void from_codes(const Weight& w, int first, int last, Rows<bf16> a, int count, float* tile, bf16* ring, const Done& done) {
        if (by_columns(w)) return columns_(registers_, w, first, last, a, count, tile, ring, done);
        registers_.shape(std::min(count, 16), std::max(count - 16, 0));
        with_codes<false>(w, first, [&](auto codes) {
            using Codes = decltype(codes);
            if (count > 16) multiply_pairs<true, Codes>(w, first, last, a, count, tile, ring, done);
            else multiply_pairs<false, Codes>(w, first, last, a, count, tile, ring, done);
        });
    }

    // The same of a slab of one pair, whose numbers are all left in `panel`.
    void lay_and_multiply(const Weight& w, int pair, Rows<bf16> a, int count, Slab slab, float* tile, bf16* panel) {
        registers_.shape(std::min(count, 16), std::max(count - 16, 0));
        with_codes<false>(w, pair, [&](auto codes) {
            if (count > 16) multiply_codes<true>(codes, a, count, slab, tile, panel);
            else multiply_codes<false>(codes, a, count, slab, tile, panel);
        });
    }

private:
    static constexpr int kStep = kAmxStep, kRowBytes = kPair * 4;  // of a tile of sums
    static_assert(InAmx::kMostSlab >= kRing * kStep && kStep == kGroup && kStep == 2 * kTogether);

    template <bool Both>
    void multiply(Rows<bf16> a, int count, const bf16* b, int depth, int lines, Ahead ahead, float* tile, bool resume) {
        settle_memory();
        take_up<Both>(tile, resume);
        for (; depth >= kStep; depth -= kStep, a.first += kStep, b += kStep * kPair) {
            step<Both>(a.first, a.stride * 2, b);
            for (int i = 0; i < lines * kStep / 2; ++i, ahead.from += ahead.step) __builtin_prefetch(ahead.from, 0, 2);
        }
        if (depth) last_step<Both>(a, count, b, depth);
        put_down<Both>(tile);
    }

    template <bool Both, class Codes>
    void multiply_codes(const Codes& codes, Rows<bf16> a, int count, Slab slab, float* tile, bf16* panel) {
        auto lay = [&](int k) WEFT_LAMBDA_INLINE {
            settle_memory();
            lay_group(codes, slab.from + k, std::min(kStep, slab.depth - k), panel + k * kPair);
            settle_memory();
        };
        lay(0);
        take_up<Both>(tile, slab.resume);
        for (int k = 0; k < slab.depth; k += kStep) {
            if (k + kStep < slab.depth) lay(k + kStep);
            step_from<Both>(a, count, slab.depth, k, panel + k * kPair);
        }
        put_down<Both>(tile);
    }

    template <bool Both, class Codes, class Done>
    void multiply_pairs(const Weight& w, int first, int last, Rows<bf16> a, int count, float* tile, bf16* ring,
                        const Done& done) {
        with_groups_laid_ahead<Codes>(
            w, first, last, ring,
            [&](const Codes& codes, int k, bf16* to)
                WEFT_LAMBDA_INLINE { lay_group(codes, k, std::min(kStep, w.depth - k), to); },
            [&] { take_up<Both>(tile, false); },
            [&](int k, const bf16* group) WEFT_LAMBDA_INLINE { step_from<Both>(a, count, w.depth, k, group); },
            [&](int pair) {
                put_down<Both>(tile);
                settle_memory();
                done(pair);
            });
    }

    // One group of a pair in the layout of W_BF16; zeros after `depth`.
    template <class Codes> static WEFT_INLINE void lay_group(const Codes& codes, int from, int depth, bf16* to) {
        if constexpr (std::is_same_v<Codes, CodesByColumn>) {
            FetchChunks<Codes>{codes}.begin(from / kGroup);
            codes.each_pair(from / kGroup, depth, [&](int j, int half, __m512i words) WEFT_LAMBDA_INLINE {
                _mm512_storeu_si512(to + 2 * pair_word(j, 16 * half), words);
            });
        } else {
            if (depth < kStep) std::memset(to, 0, kStep * kPair * sizeof(bf16));
            lay_panel<InAmx>(codes, from, depth, to);
        }
    }

    template <bool Both> static WEFT_INLINE void step(const bf16* a, int64_t row_bytes, const bf16* b) {
        _tile_loadd(6, b, 64);
        _tile_loadd(4, a, row_bytes);
        _tile_loadd(7, b + 2 * pair_word(0, 16), 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if (Both) {
            _tile_loadd(5, reinterpret_cast<const char*>(a) + 16 * row_bytes, row_bytes);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }

    // The group from `k` on, of which `depth` may leave a part.
    template <bool Both> static WEFT_INLINE void step_from(Rows<bf16> a, int count, int depth, int k, const bf16* b) {
        if (k + kStep <= depth) step<Both>(a.first + k, a.stride * 2, b);
        else last_step<Both>({a.first + k, a.stride}, count, b, depth - k);
    }

    // Rows may not be read past their depth: the last step takes zeros there.
    template <bool Both> static void last_step(Rows<bf16> a, int count, const bf16* b, int depth) {
        alignas(64) bf16 rows[InAmx::kRows * kStep] = {};
        for (int r = 0; r < count; ++r) std::memcpy(rows + r * kStep, a.first + r * a.stride, depth * sizeof(bf16));
        settle_memory();
        step<Both>(rows, kStep * sizeof(bf16), b);
    }

    template <bool Both> static WEFT_INLINE void take_up(const float* tile, bool resume) {
        if (!resume) {
            _tile_zero(0);
            _tile_zero(1);
            if (Both) {
                _tile_zero(2);
                _tile_zero(3);
            }
            return;
        }
        _tile_loadd(0, tile, kRowBytes);
        _tile_loadd(1, tile + 16, kRowBytes);
        if (Both) {
            _tile_loadd(2, tile + 16 * kPair, kRowBytes);
            _tile_loadd(3, tile + 16 * kPair + 16, kRowBytes);
        }
    }

    template <bool Both> static WEFT_INLINE void put_down(float* tile) {
        _tile_stored(0, tile, kRowBytes);
        _tile_stored(1, tile + 16, kRowBytes);
        if (Both) {
            _tile_stored(2, tile + 16 * kPair, kRowBytes);
            _tile_stored(3, tile + 16 * kPair + 16, kRowBytes);
        }
    }

    AmxRegisters registers_;
    ColumnsTimesRows columns_;
};

}  // namespace weft

#endif
