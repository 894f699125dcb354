// Register tiles: a few rows times the columns of a pair, each result one chain of multiply-adds over the depth. The bits of a
// result depend neither on how many rows a tile has nor on where the chain was put down and taken up again.
#pragma once

#include <limits.h>

#include <type_traits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels/common/row_pointers.h"
#include "kernels/common/simd.h"
#include "kernels/quant/weight.h"

namespace weft {

constexpr int kTileVectors = 2;                         // vectors of accumulators per row
constexpr int kTileRows = kVectorBytes == 64 ? 12 : 6;  // 24 of 32 or 12 of 16 registers hold sums

// Few rows, which reading bounds, ask for lines of weights so many bytes before they take them: what a core looks ahead by
// itself ends with a page.
constexpr int64_t kSoon = 6144;

constexpr int kUnpackedDepth = 640;  // of a panel that was unpacked, with room for it in the nearest caches
constexpr int kDeepPanel = 1536;     // the same in the second-level cache
constexpr int64_t kManyRows = 128;   // that pass by a panel while it stays in the caches
// Bytes of rows that stay in the second-level cache while panels pass by: where panels are packed, and where each chunk
// unpacks them anew.
constexpr int64_t kNearRows = 448 << 10, kFarRows = 640 << 10;

// Of `left` rows that make `blocks` more blocks: how many the next one has, when they are near-equal.
inline int even_rows(int64_t left, int64_t blocks) { return int((left + blocks - 1) / blocks); }

// Near-equal slabs of the depth, multiples of a group, of about `most` at most.
inline int even_slab(int depth, int most) { return ceil_div(ceil_div(depth, ceil_div(depth, most)), kGroup) * kGroup; }

// What a tile is computed in. A: activations; B: panels; Sum: results. kDepth neighbours of a column lie together.
template <class T> struct Plain {
    using A = T;
    using B = T;
    using Sum = T;
    static constexpr int kDepth = 1;
    static constexpr int kColumns = kTileVectors * kWidth<T>;
    static constexpr int kRows = sizeof(T) == 8 ? 4 : kTileRows;  // fp64 is for proofs: fewer tiles build sooner
    static int rows_of_block(int64_t left, int64_t blocks) { return even_rows(left, blocks); }
    static constexpr int kMostSlab = sizeof(T) == 4 ? 128 : kUnpackedDepth, kWholeDepth = INT_MAX;
    static constexpr int64_t kMostFarRows = kFarRows;
    static int panel_depth(int64_t) { return kMostSlab; }
    static constexpr bool kFetchesTwoLines = false;
    static constexpr bool kLaysCodes = false;
    static WEFT_INLINE Vec<T> load_b(const B* p) { return load(p); }
    static WEFT_INLINE Vec<T> load_a(const A* p) { return splat(*p); }
    static WEFT_INLINE Vec<T> load_last(const A* p) { return splat(*p); }
    static WEFT_INLINE void add(Vec<T>& sum, Vec<T> a, Vec<T> b) { sum = fused(a, b, sum); }
};
using InF32 = Plain<float>;
using InF64 = Plain<double>;

#if defined(__AVX512BF16__)
struct InBf16 {
    using A = bf16;
    using B = bf16;
    using Sum = float;
    static constexpr int kDepth = 2;
    static constexpr int kColumns = kPair, kRows = kTileRows;
    static int rows_of_block(int64_t left, int64_t blocks) { return even_rows(left, blocks); }
    static constexpr int kMostSlab = kUnpackedDepth, kWholeDepth = INT_MAX;
    static constexpr int64_t kMostFarRows = kFarRows;
    static int panel_depth(int64_t rows) { return rows < kManyRows ? kMostSlab : kDeepPanel; }
    static constexpr bool kFetchesTwoLines = true;  // a lone block of rows asks for two lines of weights at a time
    static constexpr bool kLaysCodes = false;
    static WEFT_INLINE __m512bh load_b(const B* p) { return (__m512bh)_mm512_loadu_si512(p); }
    static WEFT_INLINE __m512bh load_a(const A* p) {
        int both;
        std::memcpy(&both, p, 4);
        return (__m512bh)_mm512_set1_epi32(both);
    }
    // An odd depth: the second value of the last pair is outside the row.
    static WEFT_INLINE __m512bh load_last(const A* p) { return (__m512bh)_mm512_set1_epi32(p->bits); }
    static WEFT_INLINE void add(Vec<float>& sum, __m512bh a, __m512bh b) {
        sum = (Vec<float>)_mm512_dpbf16_ps((__m512)sum, a, b);
    }
};
#endif

// What of the depth a tile covers: [from, from + depth), `from` a multiple of kGroup; and whether sums go on.
struct Slab {
    int from, depth;
    bool resume;
};

// Memory to fetch towards the second-level cache while a tile is computed: one step's lines after the other.
struct Ahead {
    const char* from;
    int64_t step;  // bytes from line to line
};

template <class C, int MR> using Sums = Vec<typename C::Sum>[MR][kTileVectors];

// sums = tile (columns of 32) or zero.
template <class C, int MR> WEFT_INLINE void take_up(Sums<C, MR>& sums, const typename C::Sum* tile, bool resume) {
    constexpr int width = kWidth<typename C::Sum>;
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < kTileVectors; ++v)
            sums[r][v] = resume ? load(tile + r * kPair + v * width) : Vec<typename C::Sum>{};
}

template <class C, int MR> WEFT_INLINE void put_down(const Sums<C, MR>& sums, typename C::Sum* tile) {
    constexpr int width = kWidth<typename C::Sum>;
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < kTileVectors; ++v) store(tile + r * kPair + v * width, sums[r][v]);
}

template <class C, int MR, bool Last, class At>
WEFT_INLINE void one_step(Sums<C, MR>& sums, const Pointers<typename C::A, MR>& at, int offset, At b) {
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
        auto a = Last ? C::load_last(at.row(r) + offset) : C::load_a(at.row(r) + offset);
#pragma GCC unroll 2
        for (int v = 0; v < kTileVectors; ++v) C::add(sums[r][v], a, b[v]);
    }
}

// sums += a few steps of the depth, Lines lines fetched ahead with each.
template <class C, int MR, int Lines, int Steps>
WEFT_INLINE void few_steps(Sums<C, MR>& sums, Pointers<typename C::A, MR>& at, const typename C::B*& b, Ahead& ahead) {
    constexpr int kB = kPair * C::kDepth, kVector = C::kColumns * C::kDepth / kTileVectors;
#pragma GCC unroll 8
    for (int u = 0; u < Steps; ++u) {
        decltype(C::load_b(b)) now[kTileVectors] = {C::load_b(b + u * kB), C::load_b(b + u * kB + kVector)};
        one_step<C, MR, false>(sums, at, u * C::kDepth, now);
#pragma GCC unroll 2
        for (int i = 0; i < Lines; ++i) __builtin_prefetch(ahead.from, 0, 2), ahead.from += ahead.step;
    }
    b += Steps * kB;
    at.advance(Steps * C::kDepth);
}

// tile[r][c] (+)= sum over `depth` of a[r][k] * b[k][c], c < C::kColumns, Lines lines fetched ahead per step.
template <class C, int MR, int Lines>
void tile_of_panel(Rows<typename C::A> a, const typename C::B* b, int depth, Ahead ahead, typename C::Sum* tile, bool resume) {
    constexpr int kUnroll = MR <= 3 ? 8 : MR <= 6 ? 4 : 2;
    Sums<C, MR> sums;
    take_up<C, MR>(sums, tile, resume);
    Pointers<typename C::A, MR> at(a);
    int steps = depth / C::kDepth;
    for (; steps >= kUnroll; steps -= kUnroll) few_steps<C, MR, Lines, kUnroll>(sums, at, b, ahead);
    for (; steps > 0; --steps) few_steps<C, MR, 0, 1>(sums, at, b, ahead);
    if (depth % C::kDepth) {
        constexpr int kVector = C::kColumns * C::kDepth / kTileVectors;
        decltype(C::load_b(b)) now[kTileVectors] = {C::load_b(b), C::load_b(b + kVector)};
        one_step<C, MR, true>(sums, at, 0, now);
    }
    put_down<C, MR>(sums, tile);
}

template <class C> using TileOfPanel = void (*)(Rows<typename C::A>, const typename C::B*, int, Ahead, typename C::Sum*, bool);

template <class C, int Lines, size_t... R> inline TileOfPanel<C> tile_for(int rows, std::index_sequence<R...>) {
    constexpr TileOfPanel<C> tiles[] = {tile_of_panel<C, int(R) + 1, Lines>...};
    return tiles[rows - 1];
}

// The tiles that a thread computes one after the other.
template <class C> class TileOf {
public:
    // tile[r][0 .. 32) of `count` rows; fetches `lines` (0, 1 or 2) lines ahead per step.
    void operator()(Rows<typename C::A> a, int count, const typename C::B* b, int depth, int lines, Ahead ahead,
                    typename C::Sum* tile, bool resume) const {
        constexpr auto all = std::make_index_sequence<C::kRows>();
        auto first = tile_for<C, 0>(count, all), rest = first;
        if constexpr (sizeof(typename C::Sum) == 4) {
            if (lines) first = lines == 2 ? tile_for<C, 2>(count, all) : tile_for<C, 1>(count, all);
        }
        for (int c = 0; c < kPair; c += C::kColumns) (c ? rest : first)(a, b + c * C::kDepth, depth, ahead, tile + c, resume);
    }
};

}  // namespace weft
