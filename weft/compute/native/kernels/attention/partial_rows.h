// Where a partial output lies: for each head the weighted sums of values, not divided, then their level and the sum of
// weights. See weft/compute/ops/attention.py.
#pragma once

#include <limits>

#include "kernels/attention/attention_units.h"
#include "kernels/common/simd.h"

namespace weft {

// Of PARTIAL. With sections the heads of each lie together, for all rows, after those of the sections before.
template <class T> class PartialRows {
public:
    PartialRows(const Instruction& i, const Step& step)
        : i_(i), rows_(step.rows[i.rows]), width_(i.n[HEAD_DIM] + 2), starts_(static_cast<const int32_t*>(i.p[HEAD_STARTS])) {}

    // Row r of the unit's tile; `total` 0: it saw no key.
    void put(const Unit& unit, int r, const T* sums, T level, T total) const {
        T* const to = at(unit.row + r / unit.heads.count, unit.heads.first + r % unit.heads.count);
        const int dim = width_ - 2;
        for (int d = 0; d < dim; d += kWidth<T>) give(to + d, load(sums + d), dim - d);
        to[dim] = total > 0 ? level : -std::numeric_limits<T>::infinity();
        to[dim + 1] = total;
    }

private:
    T* at(int64_t row, int head) const {
        if (!i_.n[SECTIONS]) return row_of<T>(i_.out, row) + int64_t(head) * width_;
        int section = 0;
        while (head >= starts_[section + 1]) ++section;
        const int64_t first = starts_[section], heads = starts_[section + 1] - first;
        return static_cast<T*>(i_.out.base) + (rows_ * first + row * heads + head - first) * width_;
    }

    const Instruction& i_;
    const int64_t rows_;
    const int width_;
    const int32_t* const starts_;
};

}  // namespace weft
