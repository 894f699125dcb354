// Both products of attention in the CPU's tile registers (AMX), up to 16 rows at a time. A page's keys and values lie as
// the registers want their columns.
#pragma once

#include "kernels/attention/kv_cache.h"
#include "kernels/common/amx_registers.h"

namespace weft {

#if defined(__AMX_BF16__)

constexpr bool kHasAmx = true;

class AmxAttention {
public:
    static bool fits(const Pages& pages) { return pages.dim % kAmxStep == 0 && pages.tokens % kHalfStep == 0; }
    // Tokens whose values are read together: of one page.
    static int step(const Pages& pages) { return pages.tokens % kAmxStep ? kHalfStep : kAmxStep; }

    void shape(int rows) { registers_.shape_halves(rows); }

    // scores[r * stride + 16 j + i] = query r . key i of panel j, j < count <= 4; `queries`: rows of `dim`; keys[j]: pairs of
    // dims, contiguous.
    static void score(const bf16* queries, int dim, const uint32_t* const* keys, int count, float* scores, int64_t stride) {
        settle_memory();
        zero();
        const int64_t row_bytes = dim * 2, key_bytes = kKeyPanel * 4;
        for (int d = 0; d < dim; d += kAmxStep) {
            const int64_t word = int64_t(d / 2) * kKeyPanel;
            _tile_loadd(4, queries + d, row_bytes);
            _tile_loadd(6, keys[0] + word, key_bytes);
            _tile_dpbf16ps(0, 4, 6);
            if (count > 1) {
                _tile_loadd(6, keys[1] + word, key_bytes);
                _tile_dpbf16ps(1, 4, 6);
            }
            if (count > 2) {
                _tile_loadd(6, keys[2] + word, key_bytes);
                _tile_dpbf16ps(2, 4, 6);
            }
            if (count > 3) {
                _tile_loadd(6, keys[3] + word, key_bytes);
                _tile_dpbf16ps(3, 4, 6);
            }
        }
        put_down(scores, stride, count);
    }

    // sums = 0, for weigh.
    static void zero() {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }

    // sums of row r, dim 16 j + i += weights[r * stride + t] * value t, over 32 tokens, or 16 (Half); `values`: pairs of
    // tokens, `dim` words apart.
    template <bool Half> static void weigh(const bf16* weights, int64_t stride, const uint32_t* values, int dim, int count) {
        const int64_t value_bytes = dim * 4;
        if constexpr (Half) {
            _tile_loadd(5, weights, stride * 2);
            _tile_loadd(7, values, value_bytes);
            _tile_dpbf16ps(0, 5, 7);
            if (count > 1) {
                _tile_loadd(7, values + 16, value_bytes);
                _tile_dpbf16ps(1, 5, 7);
            }
            if (count > 2) {
                _tile_loadd(7, values + 32, value_bytes);
                _tile_dpbf16ps(2, 5, 7);
            }
            if (count > 3) {
                _tile_loadd(7, values + 48, value_bytes);
                _tile_dpbf16ps(3, 5, 7);
            }
        } else {
            _tile_loadd(4, weights, stride * 2);
            _tile_loadd(6, values, value_bytes);
            _tile_dpbf16ps(0, 4, 6);
            if (count > 1) {
                _tile_loadd(6, values + 16, value_bytes);
                _tile_dpbf16ps(1, 4, 6);
            }
            if (count > 2) {
                _tile_loadd(6, values + 32, value_bytes);
                _tile_dpbf16ps(2, 4, 6);
            }
            if (count > 3) {
                _tile_loadd(6, values + 48, value_bytes);
                _tile_dpbf16ps(3, 4, 6);
            }
        }
    }

    static void put_down(float* to, int64_t stride, int count) {
        const int64_t row_bytes = stride * 4;
        _tile_stored(0, to, row_bytes);
        if (count > 1) _tile_stored(1, to + 16, row_bytes);
        if (count > 2) _tile_stored(2, to + 32, row_bytes);
        if (count > 3) _tile_stored(3, to + 48, row_bytes);
    }

private:
    static constexpr int kHalfStep = kAmxStep / 2;

    AmxRegisters registers_;
};

#else

constexpr bool kHasAmx = false;

#endif

}  // namespace weft
