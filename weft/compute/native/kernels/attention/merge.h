// MERGE: partial outputs of the same rows over different keys, added up in the owners' order and divided once, at the end
// (online softmax). The twin of `merge_partials` in weft/compute/ops/attention.py.
#pragma once

#include <limits>

#include "kernels/common/simd.h"
#include "runtime/instruction.h"

namespace weft {

// T: of the parts, computed in; O: of the rows that come out.
template <class T, class O> inline void merge_parts(const Instruction& i, const Step& step, const TeamMember& me) {
    constexpr T kLowest = -std::numeric_limits<T>::infinity();
    const int64_t rows = step.rows[i.rows], heads = i.n[Q_HEADS], dim = i.n[HEAD_DIM], owners = i.n[OWNERS];
    const EvenShare share = me.share(rows * heads);
    for (int64_t each = share.begin; each < share.end; ++each) {
        const T* parts[MAX_MEMBERS];
        T level = kLowest, total = 0, scale[MAX_MEMBERS];
        for (int64_t owner = 0; owner < owners; ++owner) {
            parts[owner] = static_cast<const T*>(i.in[0].base) + (owner * rows * heads + each) * (dim + 2);
            level = std::max(level, parts[owner][dim]);
        }
        const T finite = level == kLowest ? T(0) : level;  // -inf - -inf would be NaN
        for (int64_t owner = 0; owner < owners; ++owner) {
            scale[owner] = exp(splat(T(parts[owner][dim] - finite)))[0];
            total += parts[owner][dim + 1] * scale[owner];
        }
        const Vec<T> divisor = splat(total == 0 ? T(1) : total);
        O* const out = row_of<O>(i.out, each / heads) + each % heads * dim;
        for (int64_t d = 0; d < dim; d += kWidth<T>) {
            Vec<T> sum{};
            for (int64_t owner = 0; owner < owners; ++owner)
                sum += take<T>(parts[owner] + d, int(dim - d)) * splat(scale[owner]);
            give(out + d, snapped<T>(sum / divisor, i.exact), int(dim - d));
        }
    }
}

inline void merge(const Instruction& i, const Step& step, const TeamMember& me) {
    if (i.exact) return merge_parts<double, float>(i, step, me);
    switch (i.out.dtype) {
        case F64: return merge_parts<double, double>(i, step, me);
        case F32: return merge_parts<float, float>(i, step, me);
        default: return merge_parts<float, bf16>(i, step, me);
    }
}

}  // namespace weft
