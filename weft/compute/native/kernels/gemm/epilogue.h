// What becomes of the sums of a row over a pair of panels: scale, bias, then store, SiLU(gate) * up or add. Element by
// element, so that a result does not depend on its place.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/common/simd.h"
#include "kernels/quant/weight.h"

namespace weft {

// Rows [row, row + count) of `pair`, all of whose columns are there; their sums lie kPair apart. `more` rows come next: where
// their results will go is fetched, a row's with each row. `Scaled`: times the scales of W_INT8, which `unit` multiplies.
template <int Epilogue, class O, bool Scaled>
WEFT_INLINE void whole_rows(const Operand& out, const Weight& weight, float unit, int64_t row, int count, int pair,
                            const float* sums, int64_t more) {
    constexpr int W = kWidth<float>, kVectors = kPair / W, kColumns = Epilogue == SILU_MUL_OF ? kPair / 2 : kPair;
    const float* const scales = static_cast<const float*>(weight.scale) + pair * kPair;
    O* to = static_cast<O*>(out.base) + row * out.stride + int64_t(pair) * kColumns;
    const int64_t ahead = more ? count * out.stride : 0;
    for (int r = 0; r < count; ++r, to += out.stride, sums += kPair) {
        auto sum = [&](int v) WEFT_LAMBDA_INLINE {
            const Vec<float> x = load(sums + v * W);
            return Scaled ? x * (load(scales + v * W) * splat(unit)) : x;
        };
        fetch_to_write(to + ahead, kColumns);
        if constexpr (Epilogue == SILU_MUL_OF) {
            const NearNumbers* near = read_anew(&kNear);
            for (int v = 0; v < kVectors / 2; ++v) store_narrow(to + v * W, silu_near(sum(v), *near) * sum(v + kVectors / 2));
        } else {
            for (int v = 0; v < kVectors; ++v)
                store_narrow(to + v * W, Epilogue == ADD_TO ? load(to + v * W) + sum(v) : sum(v));
        }
    }
}

template <class T> struct Finish {
    const Instruction& instruction;
    const Weight& weight;
    float unit = 1.0f / kCodeUnit;  // of the scales of W_INT8

    // Rows [row, row + count) of `pair`, whose sums lie kPair apart; `more` rows come next.
    WEFT_INLINE void rows(int64_t row, int64_t count, int pair, T* sums, int64_t more) const {
        if constexpr (std::is_same_v<T, float>) {
            if (weight.kind == W_INT8 ? all_whole<true>(row, int(count), pair, sums, more)
                                      : all_whole<false>(row, int(count), pair, sums, more))
                return;
        }
        for (int64_t r = 0; r < count; ++r) this->row(row + r, pair, sums + r * kPair);
    }

    // Where results will go is fetched while they are computed.
    void fetch(int64_t row, int count, int pair) const {
        const Operand& out = instruction.out;
        const int item = item_bytes(out.dtype), columns = instruction.n[EPILOGUE] == SILU_MUL_OF ? kPair / 2 : kPair;
        char* at = static_cast<char*>(out.base) + (row * out.stride + int64_t(pair) * columns) * item;
        for (int r = 0; r < count; ++r, at += out.stride * item) {
            __builtin_prefetch(at, 1);
            __builtin_prefetch(at + columns * item - 1, 1);
        }
    }

private:
    // What is met in every layer, pairs whose columns are all there. False where it is something else.
    template <bool Scaled> WEFT_INLINE bool all_whole(int64_t row, int count, int pair, const float* sums, int64_t more) const {
        const int epilogue = instruction.n[EPILOGUE], dtype = instruction.out.dtype;
        if (instruction.exact || instruction.p[BIAS] || weight.interleaved != (epilogue == SILU_MUL_OF)) return false;
        if ((pair + 1) * kPair > weight.columns) return false;
        const Operand& out = instruction.out;
        if (dtype == BF16 && epilogue == SILU_MUL_OF)
            return whole_rows<SILU_MUL_OF, bf16, Scaled>(out, weight, unit, row, count, pair, sums, more), true;
        if (dtype == BF16 && epilogue == STORE)
            return whole_rows<STORE, bf16, Scaled>(out, weight, unit, row, count, pair, sums, more), true;
        if (dtype == F32 && epilogue == STORE)
            return whole_rows<STORE, float, Scaled>(out, weight, unit, row, count, pair, sums, more), true;
        if (dtype == F32 && epilogue == ADD_TO)
            return whole_rows<ADD_TO, float, Scaled>(out, weight, unit, row, count, pair, sums, more), true;
        return false;
    }

    void row(int64_t row, int pair, T* sums) const {
        scale(pair, sums);
        if (instruction.p[BIAS]) add_bias(pair, sums);
        const Operand& out = instruction.out;
        switch (out.dtype) {
            case BF16: return give(row, static_cast<bf16*>(out.base) + row * out.stride, pair, sums);
            case F64: return give(row, static_cast<double*>(out.base) + row * out.stride, pair, sums);
            default: return give(row, static_cast<float*>(out.base) + row * out.stride, pair, sums);
        }
    }

    void scale(int pair, T* sums) const {
        if (weight.kind != W_INT8) return;
        const float* scales = static_cast<const float*>(weight.scale) + pair * kPair;
        for (int c = 0; c < kPair; ++c) sums[c] *= T(scales[c] * unit);
    }

    // A bias lies in the order of the matrix's rows, in the type that sums have.
    void add_bias(int pair, T* sums) const {
        const T* bias = static_cast<const T*>(instruction.p[BIAS]);
        if (!weight.interleaved) return add(sums, bias + pair * kPair, here(weight.columns, pair, kPair));
        int half = weight.columns / 2, count = here(half, pair, 16);
        add(sums, bias + pair * 16, count);
        add(sums + 16, bias + half + pair * 16, count);
    }

    template <class O> void give(int64_t at, O* row, int pair, T* sums) const {
        if (instruction.n[EPILOGUE] == SILU_MUL_OF) {
            T both[16];
            silu_mul(at, sums, both);
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

    // The exact model weighs a routed row here, where the product can be rounded alike in every layout.
    double row_weight(int64_t at) const {
        const auto* weights = instruction.op == GROUPED ? static_cast<const double*>(instruction.p[SORTED_WEIGHTS]) : nullptr;
        return weights ? weights[at] : 1.0;
    }

    void silu_mul(int64_t at, const T* sums, T* both) const {
        if (instruction.exact) {
            const double weight = row_weight(at);
            for (int c = 0; c < 16; ++c) {
                double gate = sums[c];
                both[c] = T(snapped(gate / (1.0 + std::exp(-gate)) * double(sums[16 + c]) * weight));
            }
            return;
        }
        for (int c = 0; c < 16; c += kWidth<T>) {
            const Vec<T> gate = load(sums + c), up = load(sums + 16 + c);
            if constexpr (std::is_same_v<T, float>) {
                if (instruction.out.dtype == BF16) {
                    store(both + c, silu_near(gate) * up);
                    continue;
                }
            }
            store(both + c, gate / (exp(-gate) + T(1)) * up);
        }
    }

    // A tile's rows have room for a whole pair, so vectors may be read beyond `count`.
    static void add(T* to, const T* from, int count) {
        for (int c = 0; c < count; c += kWidth<T>) store(to + c, load(to + c) + take<T>(from + c, count - c));
    }

    template <class O> static void add_to(O* to, const T* from, int count) {
        if constexpr (kWhole<O>) {
            for (int c = 0; c < count; c += kWidth<T>)
                weft::give(to + c, take<T>(to + c, count - c) + load(from + c), count - c);
        } else {
            for (int c = 0; c < count; ++c) narrow_to(T(widen(to[c])) + from[c], to[c]);
        }
    }

    template <class O> static void put(O* to, const T* from, int count) {
        if constexpr (kWhole<O>)
            for (int c = 0; c < count; c += kWidth<T>) weft::give(to + c, load(from + c), count - c);
        else
            for (int c = 0; c < count; ++c) narrow_to(from[c], to[c]);
    }

    // Whether vectors of sums are stored as O at once; fp64 sums of a bf16 result are not.
    template <class O> static constexpr bool kWhole = sizeof(O) <= sizeof(T) && (sizeof(T) == 4 || sizeof(O) == 8);

    static void narrow_to(float x, float& y) { y = x; }
    static void narrow_to(float x, bf16& y) { narrow(x, y); }
    static void narrow_to(double x, bf16& y) { narrow(float(x), y); }
    template <class X, class Y> static void narrow_to(X x, Y& y) { y = Y(x); }

    // Columns of a pair that the matrix has.
    static int here(int columns, int pair, int width) { return std::max(0, std::min(width, columns - pair * width)); }
};

}  // namespace weft
