// out (op)= in @ weight^T + bias, rows times a packed weight. A result is added up over the depth in one order (a chain of
// multiply-adds but where tile registers or integers of rounded rows say otherwise), so its bits are the same for every
// number of rows, threads and places.
//
// in[0] is bf16, fp32 or fp64; p[BIAS] is fp32 (fp64 with W_F64) in the order of the matrix's rows. With bf16 rows and a
// weight that is not fp32, products are those of bf16 pairs where the CPU has them; everything else is done in fp32
// (fp64 for W_F64).
#pragma once

#include "kernels/gemm/epilogue.h"
#include "kernels/gemm/gemm_amx.h"
#include "kernels/gemm/gemm_partition.h"
#include "kernels/gemm/gemm_int8.h"
#include "kernels/gemm/gemm_tile.h"
#include "kernels/gemm/gemm_panel.h"
#include "kernels/common/scratch.h"

namespace weft {

enum LinearScratch : int { ROWS_SCRATCH = 100, PANEL_SCRATCH, SUMS_SCRATCH, ENDS_SCRATCH };

#if defined(__AMX_BF16__)
using InPairs = InAmx;  // what products of bf16 pairs are done in
#elif defined(__AVX512BF16__)
using InPairs = InBf16;
#endif

// Rows of an operand as C takes them: in place, or converted into scratch, a chunk at a time.
template <class C> class Activations {
    using A = typename C::A;

public:
    Activations(const Operand& from, int depth) : from_(from), depth_(depth), in_place_(dtype() == from.dtype) {}

    Rows<A> chunk(int64_t first, int64_t count) {
        if (in_place_) return {static_cast<const A*>(from_.base) + first * from_.stride, from_.stride};
        int64_t stride = ceil_div(depth_, 2) * 2;
        A* to = scratch<ROWS_SCRATCH>().take<A>(count * stride);
        if (first != first_ || count != count_)
            for (int64_t r = 0; r < count; ++r) convert(first + r, to + r * stride);
        first_ = first, count_ = count;
        return {to, stride};
    }

private:
    static constexpr int dtype() { return sizeof(A) == 8 ? F64 : sizeof(A) == 4 ? F32 : BF16; }

    void convert(int64_t row, A* to) const {
        int64_t at = row * from_.stride;
        if (from_.dtype == BF16) copy(static_cast<const bf16*>(from_.base) + at, to);
        else if (from_.dtype == F64) copy(static_cast<const double*>(from_.base) + at, to);
        else copy(static_cast<const float*>(from_.base) + at, to);
    }
    template <class S> void copy(const S* from, A* to) const {
        using T = typename C::Sum;
        each_vector<T>(depth_, [&](int k, int left) { give(to + k, take<T>(from + k, left), left); });
    }

    Operand from_;
    int depth_;
    bool in_place_;
    int64_t first_ = -1, count_ = 0;
};

template <class C> struct Product {
    using A = typename C::A;
    using B = typename C::B;
    using T = typename C::Sum;

    const Instruction& instruction;
    const Weight& weight;
    Activations<C> activations;
    Finish<T> epilogue;
    TileOf<C> tile_of_pair;

    Product(const Instruction& i, const Weight& w) : instruction(i), weight(w), activations(i.in[0], w.depth), epilogue{i, w} {}

    // Of `rows`, or those of them that one thread has, how many are multiplied at a time. Where columns are looked up, that
    // is done twice for two blocks rather than a panel laid for both, which is a tenth slower.
    int64_t near(int64_t rows) const {
        if (C::kLaysCodes && by_columns(weight) && rows <= 2 * C::kRows) return C::kRows;
        if (stored_as<C>(weight.kind)) return std::min<int64_t>(near_rows(kNearRows), 192);
        return std::max<int64_t>(192, near_rows(C::kMostFarRows));
    }

    // Pairs [first, last) of `count` rows from row `from` on.
    void run(int first, int last, int64_t from, int64_t count) {
        const Rows<A> rows = activations.chunk(from, count);
        const bool stored = stored_as<C>(weight.kind);
        if (!stored && count == rows_from_codes<C>(weight.kind, count)) return from_codes(first, last, from, rows, int(count));
        for (int pair = first; pair < last; ++pair) {
            if (stored && count <= C::kRows) one_block(from, rows, int(count), pair);
            else if (stored && count > C::kWholeDepth) in_stored_slabs(from, rows, count, pair);
            else if (stored) in_one(from, rows, count, pair);
            else in_slabs(from, rows, count, pair);
        }
    }

private:
    int64_t near_rows(int64_t bytes) const {
        int64_t fit = bytes / (int64_t(weight.depth) * int64_t(sizeof(A))) / C::kRows * C::kRows;
        return std::max<int64_t>(fit, 2 * C::kRows);
    }

    // Calls tile(row, rows, block, blocks) for blocks of at most C::kRows rows.
    template <class F> static void blocks(int64_t count, F tile) {
        int64_t number = (count + C::kRows - 1) / C::kRows, row = 0;
        for (int64_t i = 0; i < number; ++i) {
            int rows = C::rows_of_block(count - row, number - i);
            tile(row, rows, i, number);
            row += rows;
        }
    }

    static Rows<A> behind(Rows<A> rows, int64_t row) { return {rows.first + row * rows.stride, rows.stride}; }

    // A single block of rows fetches what it will soon take.
    void one_block(int64_t from, Rows<A> rows, int count, int pair) {
        alignas(64) T tile[C::kRows * kPair];
        const char* data = pair_data(weight, pair);
        epilogue.fetch(from, count, pair);
        tile_of_pair(rows, count, reinterpret_cast<const B*>(data), weight.depth, 2, {data + kSoon, 64}, tile, false);
        epilogue.rows(from, count, pair, tile, 0);
    }

    // Rows that all take their numbers from codes.
    void from_codes(int first, int last, int64_t from, Rows<A> rows, int count) {
        T* sums = scratch<SUMS_SCRATCH>().template take<T>(int64_t(count) * kPair);
        B* room = scratch<PANEL_SCRATCH>().template take<B>(C::kMostSlab * kPair);
        const auto done = [&](int pair) { epilogue.rows(from, count, pair, sums, 0); };
        if constexpr (C::kLaysCodes) return tile_of_pair.from_codes(weight, first, last, rows, count, sums, room, done);
        for (int pair = first; pair < last; ++pair) {
            first_tile(weight, pair, rows, count, {0, weight.depth, false}, sums, room, false);
            done(pair);
        }
    }

    // Numbers go from codes to products, and are left in `panel`.
    void first_rows(Rows<A> rows, int count, Slab slab, int pair, T* sums, B* panel) {
        if constexpr (C::kLaysCodes) tile_of_pair.lay_and_multiply(weight, pair, rows, count, slab, sums, panel);
        else first_tile(weight, pair, rows, count, slab, sums, panel, true);
    }

    // The first blocks fetch the next pair.
    void in_one(int64_t from, Rows<A> rows, int64_t count, int pair) {
        alignas(64) T tile[C::kRows * kPair];
        const char* data = pair_data(weight, pair);
        const int64_t bytes = pair_bytes(weight.kind, weight.depth), half = int64_t(weight.depth / C::kDepth) * 64;
        blocks(count, [&](int64_t row, int n, int64_t i, int64_t) {
            if (!i) epilogue.fetch(from, n, pair);
            const B* panel = reinterpret_cast<const B*>(data);
            tile_of_pair(behind(rows, row), n, panel, weight.depth, i < 2, {data + bytes + i * half, 64}, tile, false);
            epilogue.rows(from + row, n, pair, tile, count - row - n);
        });
    }

    // A slab of the pair stays in the nearest cache while the blocks of rows pass by; sums are put down between slabs.
    void in_stored_slabs(int64_t from, Rows<A> rows, int64_t count, int pair) {
        const int slab = even_slab(weight.depth, C::kMostSlab);
        const char* data = pair_data(weight, pair);
        const int64_t bytes = pair_bytes(weight.kind, weight.depth), half = int64_t(slab / C::kDepth) * 64;
        T* sums = scratch<SUMS_SCRATCH>().template take<T>(count * kPair);
        for (int k = 0; k < weight.depth; k += slab, rows.first += slab, data += int64_t(slab) * kPair * sizeof(B)) {
            const int depth = std::min(slab, weight.depth - k);
            blocks(count, [&](int64_t row, int n, int64_t i, int64_t) {
                Ahead ahead{data + bytes + i * half, 64};
                if (!i && k + depth == weight.depth) epilogue.fetch(from, n, pair);
                tile_of_pair(behind(rows, row), n, reinterpret_cast<const B*>(data), depth, i < 2, ahead, sums + row * kPair,
                             k > 0);
                if (k + depth == weight.depth) epilogue.rows(from + row, n, pair, sums + row * kPair, count - row - n);
            });
        }
    }

    // Slabs of the depth are unpacked, by the first tile's products where it can, into a panel that stays in the
    // caches while the other rows of a chunk pass by; sums are put down between slabs.
    void in_slabs(int64_t from, Rows<A> rows, int64_t count, int pair) {
        const int first = rows_from_codes<C>(weight.kind, count), depth = weight.depth;
        const int most = C::panel_depth(count), slab = even_slab(depth, most);
        B* panel = scratch<PANEL_SCRATCH>().template take<B>(most * kPair);
        T* sums = scratch<SUMS_SCRATCH>().template take<T>(count * kPair);
        for (int k = 0; k < depth; k += slab, rows.first += slab) {
            Slab part{k, std::min(slab, depth - k), k > 0};
            if (first) first_rows(rows, first, part, pair, sums, panel);
            else unpack<C>(weight, pair, k, part.depth, panel);
            // What is unpacked next is fetched by the products of the first blocks, or of the first one alone where there are
            // no others.
            const char* const next = pair_data(weight, pair) + pair_bytes(weight.kind, k + part.depth);
            const int64_t bytes = pair_bytes(weight.kind, part.depth), by_block = int64_t(part.depth / C::kDepth) * 64;
            const bool ends = k + part.depth == depth;
            if (ends && first) epilogue.rows(from, first, pair, sums, count - first);
            blocks(count - first, [&](int64_t row, int n, int64_t i, int64_t number) {
                row += first;
                T* const own = sums + row * kPair;
                const bool alone = C::kFetchesTwoLines && number == 1;
                const int lines = alone && !i && bytes > by_block ? 2 : i * by_block < bytes;
                tile_of_pair(behind(rows, row), n, panel, part.depth, lines, {next + i * by_block, 64}, own, part.resume);
                if (ends) epilogue.rows(from + row, n, pair, own, count - row - n);
            });
        }
    }
};

// f(what multiplies the instruction's rows with `weight`)
template <class F> inline void with_product(const Instruction& instruction, const Weight& weight, F&& f) {
    if (weight.kind == W_F64) return f(Product<InF64>(instruction, weight));
    if (weight.int8_activations && rounded(weight.kind)) {
        if (weight.kind == W_INT8) return f(RoundedProduct<W_INT8>(instruction, weight));
        if (weight.kind == W_INT8G) return f(RoundedProduct<W_INT8G>(instruction, weight));
        return f(RoundedProduct<W_INT4>(instruction, weight));
    }
#if defined(__AVX512BF16__)
    if (instruction.in[0].dtype == BF16 && weight.kind != W_F32) return f(Product<InPairs>(instruction, weight));
#endif
    f(Product<InF32>(instruction, weight));
}

inline void linear(const Instruction& instruction, const Step& step, const TeamMember& me) {
    const Weight& weight = *static_cast<const Weight*>(instruction.p[WEIGHT]);
    with_product(instruction, weight, [&](auto product) {
        const int64_t rows = step.rows[instruction.rows];
        auto parts = [&](int owner) { return parts_of(instruction, weight, {0, rows}, product.near(rows), owner, me.threads); };
        me.run_units([&](int owner) { return parts(owner).count(); },
                     [&](int owner, int64_t from, int64_t to) { parts(owner).run(product, from, to); });
    });
}

}  // namespace weft
