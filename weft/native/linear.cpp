// Products x @ weight^T + bias with one order of summation per result, whatever the number of rows and threads: kWidth
// partial sums over k = 0, 1, 2 ... in steps of a vector, added in a fixed tree, then the bias. Weights lie as they were
// loaded, one row per output column; nothing is packed, so one row costs one pass over the weights.
#include <algorithm>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "parallel.h"
#include "vec.h"

namespace weft {
namespace {

constexpr int kUnitRows = 64, kUnitColumns = 64;  // of one thread's unit of work: both operands stay in its cache
constexpr size_t kNearBytes = 24 << 10;
constexpr long kSerialWork = 1 << 17;  // multiply-adds below which waking threads costs more than it gives

// Vectors of `step` neighbouring elements, and acc += a * b over them.
template <class S> struct Operand {
    using T = S;
    using V = Vec<S>;
    static constexpr int step = kWidth<S>;
    static V take(const S* p) { return load(p); }
    static void add(Vec<T>& acc, V a, V b) { acc += a * b; }
};

#if defined(__AVX512BF16__)
template <> struct Operand<bf16> {
    using T = float;
    using V = __m512bh;
    static constexpr int step = 32;
    static V take(const bf16* p) { return (__m512bh)_mm512_loadu_si512(p); }
    static void add(Vec<float>& acc, V a, V b) { acc = (Vec<float>)_mm512_dpbf16_ps((__m512)acc, a, b); }
};
#else
template <> struct Operand<bf16> {
    using T = float;
    struct V {
        Vec<float> even, odd;
    };
    static constexpr int step = 2 * kWidth<float>;
    static V take(const bf16* p) {
        typedef uint32_t W __attribute__((vector_size(kVectorBytes)));
        typedef uint32_t U __attribute__((vector_size(kVectorBytes), aligned(2), may_alias));
        W pairs = *reinterpret_cast<const U*>(p);
        W even = pairs << 16, odd = pairs & 0xffff0000u;
        return {(Vec<float>)even, (Vec<float>)odd};
    }
    static void add(Vec<float>& acc, V a, V b) {
        acc += a.even * b.even;
        acc += a.odd * b.odd;
    }
};
#endif

template <class S> typename Operand<S>::V take_some(const S* p, int count) {
    S whole[Operand<S>::step] = {};
    std::copy(p, p + count, whole);
    return Operand<S>::take(whole);
}

// sums[i] -> lane i of one vector, each added in the same tree.
template <class T, int Half = 1> inline void fold(Vec<T>* sums) {
    if constexpr (Half < kWidth<T>) {
#pragma GCC unroll 16
        for (int i = 0; i < kWidth<T> / Half; i += 2) {
            exchange<T, Half>(sums[i], sums[i + 1], std::make_index_sequence<kWidth<T>>());
            sums[i / 2] = sums[i] + sums[i + 1];
        }
        fold<T, Half * 2>(sums);
    }
}

// O: what results are rounded to, S or the type they are added up in.
template <class S, class O = S> struct Product {
    const S *x, *weight, *bias;
    O* out;
    int64_t x_row;
    int rows, columns, depth;

    using T = typename Operand<S>::T;
    static constexpr int kResults = kWidth<T>;              // accumulators of a block, folded into one vector
    static constexpr int kRows = kResults >= 16 ? 4 : 2;    // rows of a block

    template <int R> void block(int row, int column) const {
        constexpr int C = kResults / R, step = Operand<S>::step;
        const S *xs[R], *ws[C];
        for (int r = 0; r < R; ++r) xs[r] = x + (row + r) * x_row;
        for (int c = 0; c < C; ++c) ws[c] = weight + int64_t(std::min(column + c, columns - 1)) * depth;
        Vec<T> sums[kResults] = {};
        int k = 0;
        for (; k + step <= depth; k += step) {
            typename Operand<S>::V a[R];
            for (int r = 0; r < R; ++r) a[r] = Operand<S>::take(xs[r] + k);
            for (int c = 0; c < C; ++c) {
                auto b = Operand<S>::take(ws[c] + k);
                for (int r = 0; r < R; ++r) Operand<S>::add(sums[r * C + c], a[r], b);
            }
        }
        if (k < depth) {
#pragma GCC unroll 16
            for (int c = 0; c < C; ++c) {
                auto b = take_some(ws[c] + k, depth - k);
#pragma GCC unroll 4
                for (int r = 0; r < R; ++r) Operand<S>::add(sums[r * C + c], take_some(xs[r] + k, depth - k), b);
            }
        }
        fold<T>(sums);
        give<R>(row, column, sums[0]);
    }

    template <int R> void give(int row, int column, Vec<T> results) const {
        constexpr int C = kResults / R;
        int count = std::min(C, columns - column);
        if (bias) {
            T addends[kResults] = {};
            for (int i = 0; i < kResults; ++i)
                if (i % C < count) addends[i] = widen(bias[column + i % C]);
            results += load(addends);
        }
        O lanes[kResults];
        store(lanes, results);
        for (int r = 0; r < R; ++r) {
            O* to = out + int64_t(row + r) * columns + column;
            if (count == C)
                std::memcpy(to, lanes + r * C, C * sizeof(O));
            else
                std::copy(lanes + r * C, lanes + r * C + count, to);
        }
    }

    // A few rows at a time, so that they stay in the first-level cache while the columns pass by.
    template <int R> void rows_of(int begin, int end, int first, int last) const {
        int near = std::max(R, int(kNearBytes / (depth * sizeof(S))) / R * R);
        for (int from = begin; from < end; from += near)
            for (int column = first; column < last; column += kResults / R)
                for (int row = from; row < std::min(from + near, end); row += R) block<R>(row, column);
    }

    // Rows [begin, end) of columns [first, last); `last` - `first` is a multiple of kResults, or `last` is the end.
    void unit(int begin, int end, int first, int last) const {
        int whole = begin + (end - begin) / kRows * kRows;
        if (whole > begin) rows_of<kRows>(begin, whole, first, last);
        if (kRows > 2 && end - whole >= 2) rows_of<2>(whole, whole + 2, first, last), whole += 2;
        if (end > whole) rows_of<1>(whole, end, first, last);
    }

    void run(int threads, TeamCall team) const {
        int row_units = (rows + kUnitRows - 1) / kUnitRows, column_units = (columns + kUnitColumns - 1) / kUnitColumns;
        bool serial = long(rows) * columns * depth < kSerialWork;
        deal(row_units * column_units, serial ? 1 : threads, team, [&](int i) {
            int begin = i / column_units * kUnitRows, first = i % column_units * kUnitColumns;
            unit(begin, std::min(begin + kUnitRows, rows), first, std::min(first + kUnitColumns, columns));
        });
    }
};

}  // namespace
}  // namespace weft

#define WEFT_LINEAR(NAME, STORED, GIVEN)                                                                                        \
    extern "C" void NAME(const void* x, int64_t x_row, const void* weight, const void* bias, void* out, int rows,        \
                         int columns, int depth, int threads, void* team) {                                              \
        using S = STORED;                                                                                                \
        weft::Product<S, GIVEN>{static_cast<const S*>(x), static_cast<const S*>(weight), static_cast<const S*>(bias),           \
                         static_cast<GIVEN*>(out), x_row, rows, columns, depth}                                              \
            .run(threads, reinterpret_cast<weft::TeamCall>(team));                                                       \
    }

WEFT_LINEAR(weft_linear_f32, float, float)
WEFT_LINEAR(weft_linear_bf16, weft::bf16, weft::bf16)
WEFT_LINEAR(weft_linear_f64, double, double)
WEFT_LINEAR(weft_logits_bf16, weft::bf16, float)
