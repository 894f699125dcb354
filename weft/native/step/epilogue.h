// What becomes of the sums of a row over a pair of panels: scale, bias, then store, SiLU(gate) * up or add. Element by
// element, so that a result does not depend on its place. Knows no product.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "weight.h"

namespace weft {

// The exact model's grid: see weft/ops/exact_ops.py.
inline double on_grid(double x) {
    double units = std::nearbyint(x * 64.0);
    return std::min(std::max(units, -256.0), 256.0) / 64.0;
}

template <class T> struct Finish {
    const Instruction& instruction;
    const Weight& weight;

    void row(int64_t row, int pair, T* sums) const {
        scale(pair, sums);
        if (instruction.p[BIAS]) add_bias(pair, sums);
        const Operand& out = instruction.out;
        switch (out.dtype) {
            case BF16: return give(static_cast<bf16*>(out.base) + row * out.stride, pair, sums);
            case F64: return give(static_cast<double*>(out.base) + row * out.stride, pair, sums);
            default: return give(static_cast<float*>(out.base) + row * out.stride, pair, sums);
        }
    }

private:
    void scale(int pair, T* sums) const {
        if (weight.kind != W_INT8) return;
        const float* scales = static_cast<const float*>(weight.scale) + pair * kPair;
        for (int c = 0; c < kPair; ++c) sums[c] *= T(scales[c] * (1.0f / kCodeUnit));
    }

    // A bias lies in the order of the matrix's rows, in the type that sums have.
    void add_bias(int pair, T* sums) const {
        const T* bias = static_cast<const T*>(instruction.p[BIAS]);
        if (!weight.interleaved) return add(sums, bias + pair * kPair, here(weight.columns, pair, kPair));
        int half = weight.columns / 2, count = here(half, pair, 16);
        add(sums, bias + pair * 16, count);
        add(sums + 16, bias + half + pair * 16, count);
    }

    template <class O> void give(O* row, int pair, T* sums) const {
        if (instruction.n[EPILOGUE] == SILU_MUL_OF) {
            T both[16];
            silu_mul(sums, both);
            put(row + pair * 16, both, here(weight.columns / 2, pair, 16));
        } else if (instruction.n[EPILOGUE] == ADD_TO) {
            int count = here(weight.columns, pair, kPair);
            O* to = row + pair * kPair;
            if (weight.interleaved) scatter(row, pair, sums, [](O& y, T x) { narrow_to(T(widen(y)) + x, y); });
            else add_to(to, sums, count);
        } else if (weight.interleaved) {
            scatter(row, pair, sums, [](O& y, T x) { narrow_to(x, y); });
        } else {
            put(row + pair * kPair, sums, here(weight.columns, pair, kPair));
        }
    }

    // An interleaved weight without SiLU: columns in the order of the matrix's rows.
    template <class O, class F> void scatter(O* row, int pair, const T* sums, F f) const {
        int half = weight.columns / 2, count = here(half, pair, 16);
        for (int c = 0; c < count; ++c) f(row[pair * 16 + c], sums[c]), f(row[half + pair * 16 + c], sums[16 + c]);
    }

    void silu_mul(const T* sums, T* both) const {
        if (instruction.exact) {
            for (int c = 0; c < 16; ++c) {
                double gate = sums[c];
                both[c] = T(on_grid(gate / (1.0 + std::exp(-gate)) * double(sums[16 + c])));
            }
            return;
        }
        for (int c = 0; c < 16; c += kWidth<T>) {
            Vec<T> gate = load(sums + c), up = load(sums + 16 + c);
            store(both + c, gate / (exp(-gate) + T(1)) * up);
        }
    }

    // Whole vectors first: compilers leave loops with a count that they do not know one by one.
    static void add(T* to, const T* from, int count) {
        const int whole = count / kWidth<T> * kWidth<T>;
        for (int c = 0; c < whole; c += kWidth<T>) store(to + c, load(to + c) + load(from + c));
        for (int c = whole; c < count; ++c) to[c] += from[c];
    }

    template <class O> static void add_to(O* to, const T* from, int count) {
        if constexpr (std::is_same_v<O, T>) add(to, from, count);
        else for (int c = 0; c < count; ++c) narrow_to(T(widen(to[c])) + from[c], to[c]);
    }

    template <class O> static void put(O* to, const T* from, int count) {
        for (int c = 0; c < count; ++c) narrow_to(from[c], to[c]);
    }
    static void put(T* to, const T* from, int count) {
        const int whole = count / kWidth<T> * kWidth<T>;
        for (int c = 0; c < whole; c += kWidth<T>) store(to + c, load(from + c));
        for (int c = whole; c < count; ++c) to[c] = from[c];
    }
    static void put(bf16* to, const float* from, int count) {
        int whole = count / kWidth<float> * kWidth<float>;
        for (int c = 0; c < whole; c += kWidth<float>) store(to + c, load(from + c));
        for (int c = whole; c < count; ++c) narrow(from[c], to[c]);
    }

    static void narrow_to(float x, float& y) { y = x; }
    static void narrow_to(float x, bf16& y) { narrow(x, y); }
    static void narrow_to(double x, bf16& y) { narrow(float(x), y); }
    template <class X, class Y> static void narrow_to(X x, Y& y) { y = Y(x); }

    // Columns of a pair that the matrix has.
    static int here(int columns, int pair, int width) { return std::max(0, std::min(width, columns - pair * width)); }
};

}  // namespace weft
