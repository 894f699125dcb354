// Where a token's key and value lie in the pages of the KV cache.
//
// A page is the keys (or the values) of one block and one KV head. Plain: [token][dim]. Packed, bf16 only: keys as [token /
// 16][dim / 2][16][2], values as [token / 2][dim][2], so that both products of attention read one vector of tokens, or of
// dims, for each pair of the other, and a register's vectors of keys are neighbours. A packed value that is the last one
// written is followed by zeros up to the end of its group (kValueGroup tokens): their weights are zero too, but zero times
// what a page held before might be NaN.
#pragma once

#include <algorithm>

#include "kernels/common/row_pointers.h"
#include "kernels/common/scratch.h"
#include "kernels/common/simd.h"

namespace weft {

constexpr int kKeyPanel = 16;  // tokens of a packed page whose pairs of dims lie beside each other

struct Pages {
    char *k, *v;
    int64_t block, head;     // bytes from block to block, from head to head
    int tokens, dim, shift;  // shift: tokens = 2^shift, or -1
    bool packed;

    Pages(const Instruction& i, int element)
        : k(static_cast<char*>(const_cast<void*>(i.p[K_CACHE]))), v(static_cast<char*>(const_cast<void*>(i.p[V_CACHE]))),
          block(i.cache_stride[0] * element), head(i.cache_stride[1] * element), tokens(i.n[BLOCK_SIZE]), dim(i.n[HEAD_DIM]),
          shift(tokens & (tokens - 1) ? -1 : __builtin_ctz(tokens)), packed(i.n[PACKED_CACHE]) {}

    // Of a position (mostly without a division, which would be felt).
    int block_of(int position) const { return shift < 0 ? position / tokens : position >> shift; }
    int offset_of(int position) const { return shift < 0 ? position % tokens : position & (tokens - 1); }

    // Where the first pair of a packed token's key lies in its page, in words; the next ones are kKeyPanel words apart.
    int64_t place_of_key(int offset) const { return int64_t(offset / kKeyPanel) * kKeyPanel * (dim / 2) + offset % kKeyPanel; }

    template <class S> S* keys(int64_t of_block, int of_head) const {
        return reinterpret_cast<S*>(k + of_block * block + of_head * head);
    }
    template <class S> S* values(int64_t of_block, int of_head) const {
        return reinterpret_cast<S*>(v + of_block * block + of_head * head);
    }
};

#if defined(__AMX_BF16__)
constexpr int kValueGroup = 32;  // tokens whose values one instruction reads
#else
constexpr int kValueGroup = 2;
#endif

// rows[count][dim]: tokens offset .. offset + count - 1 of a packed page of keys.
inline void write_packed_keys(uint32_t* page, const Pages& pages, const bf16* rows, int offset, int count) {
    constexpr int W = kWidth<float>;
    static_assert(kKeyPanel % W == 0);
    const int pairs = pages.dim / 2;
    for (int t = 0; t < count;) {
        const uint32_t* row = reinterpret_cast<const uint32_t*>(rows + int64_t(t) * pages.dim);
        uint32_t* const to = page + pages.place_of_key(offset + t);
        if (count - t < W || pairs < W || (offset + t) % W) {
            for (int d = 0; d < pairs; ++d) to[d * kKeyPanel] = row[d];
            ++t;
            continue;
        }
        int d = 0;
        for (; d + W <= pairs; d += W) {  // moves bits only
            Vec<float> square[W];
            for (int j = 0; j < W; ++j) square[j] = load(reinterpret_cast<const float*>(row + int64_t(j) * pairs) + d);
            transpose<float>(square);
            for (int j = 0; j < W; ++j) store(reinterpret_cast<float*>(to + (d + j) * kKeyPanel), square[j]);
        }
        for (; d < pairs; ++d)
            for (int j = 0; j < W; ++j) to[d * kKeyPanel + j] = row[int64_t(j) * pairs + d];
        t += W;
    }
}

// Zeroes the pairs after the last written token, in the group of values that writing the tokens [begin, end) began.
inline void zero_rest_of_group(uint32_t* page, const Pages& pages, int begin, int end) {
    const int group = (end - 1) / kValueGroup * kValueGroup, first = (end + 1) / 2;
    const int behind = std::min(group + kValueGroup, pages.tokens) / 2;
    if (group >= begin && first < behind)
        memset(page + int64_t(first) * pages.dim, 0, size_t(behind - first) * pages.dim * sizeof(uint32_t));
}

// The same for values: rows[t * stride + d].
inline void write_packed_values(uint32_t* page, const Pages& pages, Rows<bf16> rows, int offset, int count) {
    const int dim = pages.dim;
    for (int t = 0; t < count;) {
        const bf16* row = rows.first + t * rows.stride;
        uint32_t* to = page + int64_t((offset + t) / 2) * dim;
        if ((offset + t) % 2) {  // what is there is not read: it may be far
            uint16_t* second = reinterpret_cast<uint16_t*>(to) + 1;
            for (int d = 0; d < dim; ++d) memcpy(second + 2 * d, row + d, 2);
            ++t;
            continue;
        }
        const bool both = t + 1 < count;
        each_vector<float>(dim, [&](int d, int left) {
            const auto first = (VecInt<float>)take<float>(row + d, left) >> 16 & 0xffff;
            const auto second = both ? (VecInt<float>)take<float>(row + rows.stride + d, left) : VecInt<float>{};
            give(reinterpret_cast<float*>(to) + d, (Vec<float>)(first | second), left);
        });
        t += both ? 2 : 1;
    }
    zero_rest_of_group(page, pages, offset, offset + count);
}

}  // namespace weft
