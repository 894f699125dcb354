// Operations on single rows: norm, embedding, SiLU * up, sums, biases, row selection. Each thread takes a contiguous share of
// the rows; a row's bits depend on nothing but the row. Parameters (norm weights, biases) are fp32, or fp64 where sums are.
#pragma once

#include <string.h>

#include "runtime/instruction.h"
#include "kernels/common/scratch.h"
#include "kernels/common/simd.h"
#include "kernels/quant/unpack.h"

namespace weft {

// y += x, each of `size` elements; `x` in T's type or a narrower one.
template <class T, class To, class From> inline void add_row(To* y, const From* x, int size) {
    each_vector<T>(size, [&](int d, int left) { give(y + d, take<T>(y + d, left) + take<T>(x + d, left), left); });
}

// Row r of `to` += row r of `from`. `to` is where the sum is kept: fp64 only if it is.
inline void add_rows_of(const Operand& to, const Operand& from, int64_t r) {
    with_types(to.dtype == F64, from.dtype, to.dtype, [&](auto given, auto kept, auto computed) {
        using T = typename decltype(computed)::type;
        add_row<T>(row_of<typename decltype(kept)::type>(to, r), row_of<typename decltype(given)::type>(from, r), to.columns);
    });
}

// Each row's RMS norm, after in[1]'s row was added where there is one.
inline void norm(const Instruction& i, const Step& step, const TeamMember& me) {
    const EvenShare share = me.share(step.rows[i.rows]);
    const int size = i.out.columns;
    with_types(in_double(i), i.in[0].dtype, i.out.dtype, [&](auto from, auto to, auto computed) {
        using T = typename decltype(computed)::type;
        const T* weight = static_cast<const T*>(i.p[NORM_WEIGHT]);
        for (int64_t r = share.begin; r < share.end; ++r) {
            if (i.in[1].base) add_rows_of(i.in[0], i.in[1], r);
            const auto* x = row_of<typename decltype(from)::type>(i.in[0], r);
            auto* y = row_of<typename decltype(to)::type>(i.out, r);
            const Vec<T> factor = splat(T(T(1) / sqrt(squares<T>(x, size) / T(size) + T(i.f[EPS]))));
            each_vector<T>(size, [&](int d, int left) {
                give(y + d, snapped<T>(take<T>(x + d, left) * factor * take<T>(weight + d, left), i.exact), left);
            });
        }
    });
}

// Table rows from in[1] (row-major) or, where it has no base, from the packed p[WEIGHT].
inline void embed(const Instruction& i, const Step& step, const TeamMember& me) {
    const EvenShare share = me.share(step.rows[i.rows]);
    const int size = i.out.columns;
    const Operand& table = i.in[1];
    for (int64_t r = share.begin; r < share.end; ++r) {
        const int64_t id = (i.in[0].base ? *row_of<int64_t>(i.in[0], r) : step.ids[r]) - i.n[LO];
        char* y = row_of<char>(i.out, 0) + r * i.out.stride * item_bytes(i.out.dtype);
        if (id < 0 || id >= i.n[HELD]) {
            memset(y, 0, size * item_bytes(i.out.dtype));
        } else if (!table.base) {
            const Weight& weight = *static_cast<const Weight*>(i.p[WEIGHT]);
            if (i.out.dtype == F64) {
                gather_row(weight, id, reinterpret_cast<double*>(y));
            } else if (i.out.dtype == F32) {
                gather_row(weight, id, reinterpret_cast<float*>(y));
            } else {
                float* wide = scratch<EMBED>().template take<float>(size);
                gather_row(weight, id, wide);
                each_vector<float>(
                    size, [&](int d, int left) { give(reinterpret_cast<bf16*>(y) + d, take<float>(wide + d, left), left); });
            }
        } else {
            with_types(i.out.dtype == F64 || table.dtype == F64, table.dtype, i.out.dtype,
                       [&](auto from, auto to, auto computed) {
                           using T = typename decltype(computed)::type;
                           const auto* x = row_of<typename decltype(from)::type>(table, id);
                           auto* out = reinterpret_cast<typename decltype(to)::type*>(y);
                           each_vector<T>(size, [&](int d, int left) { give(out + d, take<T>(x + d, left), left); });
                       });
        }
    }
}

inline void silu_mul(const Instruction& i, const Step& step, const TeamMember& me) {
    const EvenShare share = me.share(step.rows[i.rows]);
    const int size = i.out.columns;
    with_types(in_double(i), i.in[0].dtype, i.out.dtype, [&](auto from, auto to, auto computed) {
        using T = typename decltype(computed)::type;
        for (int64_t r = share.begin; r < share.end; ++r) {
            const auto *gate = row_of<typename decltype(from)::type>(i.in[0], r), *up = gate + size;
            auto* y = row_of<typename decltype(to)::type>(i.out, r);
            each_vector<T>(size, [&](int d, int left) {
                const Vec<T> g = take<T>(gate + d, left);
                give(y + d, snapped<T>(g / (splat(T(1)) + exp(-g)) * take<T>(up + d, left), i.exact), left);
            });
        }
    });
}

inline void add(const Instruction& i, const Step& step, const TeamMember& me) {
    const EvenShare share = me.share(step.rows[i.rows]);
    for (int64_t r = share.begin; r < share.end; ++r) add_rows_of(i.out, i.in[0], r);
}

inline void add_bias(const Instruction& i, const Step& step, const TeamMember& me) {
    const EvenShare share = me.share(step.rows[i.rows]);
    const Operand bias = {const_cast<void*>(i.p[BIAS]), 0, i.out.dtype == F64 ? F64 : F32, i.out.columns};
    for (int64_t r = share.begin; r < share.end; ++r) add_rows_of(i.out, bias, r);
}

// out[r] = in0[r] on the exact model's grid.
inline void round_rows(const Instruction& i, const Step& step, const TeamMember& me) {
    const EvenShare share = me.share(step.rows[i.rows]);
    for (int64_t r = share.begin; r < share.end; ++r)
        for (int c = 0; c < i.out.columns; ++c)
            row_of<float>(i.out, r)[c] = float(snapped(double(row_of<float>(i.in[0], r)[c])));
}

// Row numbers ascend, so going down, no row is overwritten before it is read. Threads split the columns, and each goes down
// all rows alone. Where all rows are sampled there is nothing to do.
inline void select_rows(const Instruction& i, const Step& step, const TeamMember& me) {
    for (const Operand& x : i.in) {
        if (!x.base) continue;
        const int64_t item = item_bytes(x.dtype), stride = x.stride * item;
        const EvenShare columns = me.share(x.columns);
        char* first = row_of<char>(x, 0) + columns.begin * item;
        for (int64_t r = 0; r < step.rows[i.rows]; ++r)
            if (step.sampled_rows[r] != r)
                memcpy(first + r * stride, first + step.sampled_rows[r] * stride, (columns.end - columns.begin) * item);
    }
}

}  // namespace weft
