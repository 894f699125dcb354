// Where the rows of a register tile are read: a number of each, step by step.
#pragma once

#include "kernels/common/vec.h"

namespace weft {

// Rows as seen from a tile.
template <class A> struct Rows {
    const A* first;
    int64_t stride;  // elements
};

// Three rows share a pointer: with the stride and its double that is all the addressing of twelve rows.
template <class A, int MR> struct Pointers {
    static constexpr int kBases = (MR + 2) / 3;
    const A* base[kBases];
    int64_t stride, twice;

    WEFT_INLINE explicit Pointers(Rows<A> rows) : stride(rows.stride), twice(2 * rows.stride) {
        for (int i = 0; i < kBases; ++i) base[i] = rows.first + 3 * i * rows.stride;
    }
    WEFT_INLINE const A* row(int r) const { return base[r / 3] + (r % 3 == 2 ? twice : r % 3 == 1 ? stride : 0); }
    WEFT_INLINE void advance(int elements) {
#pragma GCC unroll 4
        for (int i = 0; i < kBases; ++i) base[i] += elements;
    }
};

}  // namespace weft
