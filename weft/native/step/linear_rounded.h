// Products of rows rounded to 8 bits with weights in codes. Within a group of the depth (a column's whole depth for
// W_INT8) products are added as integers, which no order changes; groups are added in the order of the depth. A result's
// bits are the same for every number of rows, threads and places.
//
// A value of a group is code * scale + offset in fp32: it is not rounded to bf16, as it is where rows keep their numbers.
#pragma once

#include <type_traits>

#include "epilogue.h"
#include "linear_tile.h"
#include "rounded_words.h"

namespace weft {

#if defined(__AVX512VNNI__)
// Rows of a tile, whose sums fit the registers beside a step's words: out of a panel, out of codes as they lie.
constexpr int kWholeTile = 12, kGroupedTile = 6, kWholeOfCodes = 6, kGroupedOfCodes = 4;
#else
constexpr int kWholeTile = 2, kGroupedTile = 1, kWholeOfCodes = 1, kGroupedOfCodes = 1;
#endif

// Steps [from, to) of the depth; sums go on where a tile before put them down.
struct Steps {
    int from, to;
    bool resume;
};

template <int MR> using IntegerSums = Words[MR][kColumnVectors];
template <int MR> using FloatSums = Vec<float>[MR][kColumnVectors];

// Of each row over some steps, out of a pair's codes as they lie: a column's words of a step are two lanes.
template <int MR, int Kind>
WEFT_INLINE void products(const WordsOfCodes<Kind>& codes, const RoundedRows& rows, int from, int to, IntegerSums<MR>& found) {
    Words sums[MR][kStepVectors] = {};
    Pointers<int8_t, MR> at({rows.codes + from * kStep, rows.stride});
    for (int s = from; s < to; ++s, at.advance(kStep)) {
        Words words[kStepVectors];
        codes.step(s, words);
#pragma GCC unroll 16
        for (int r = 0; r < MR; ++r) {
            const Words eight = eight_codes(at.row(r));
#pragma GCC unroll 16
            for (int i = 0; i < kStepVectors; ++i) sums[r][i] = dot(sums[r][i], words[i], eight);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
        for (int i = 0; i < kColumnVectors; ++i)
            found[r][i] += first_of_two(sums[r][2 * i], sums[r][2 * i + 1]) + second_of_two(sums[r][2 * i], sums[r][2 * i + 1]);
}

// The same out of a panel: a column's word is a lane.
template <int MR>
WEFT_INLINE void products(const WordsOfPanel& panel, const RoundedRows& rows, int from, int to, IntegerSums<MR>& sums) {
    const int32_t* at = panel.words(from);
    Pointers<int8_t, MR> codes({rows.codes + from * kStep, rows.stride});
    for (int s = from; s < to; ++s, at += kStepBytes / 4, codes.advance(kStep)) {
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
            Words words[kColumnVectors];
#pragma GCC unroll 8
            for (int i = 0; i < kColumnVectors; ++i) words[i] = load_words(at + (half * kColumnVectors + i) * kWordLanes);
#pragma GCC unroll 16
            for (int r = 0; r < MR; ++r) {
                const Words four = four_codes(codes.row(r) + half * (kStep / 2));
#pragma GCC unroll 8
                for (int i = 0; i < kColumnVectors; ++i) sums[r][i] = dot(sums[r][i], words[i], four);
            }
        }
    }
}

// Begins with what takes the codes' zero away.
template <int MR> WEFT_INLINE void begin(IntegerSums<MR>& sums, const RoundedRows& rows, int group, int zero) {
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
        for (int i = 0; i < kColumnVectors; ++i) sums[r][i] = Words{} - zero * rows.group[r * rows.groups + group].sum;
}

template <int MR, class T, class V> WEFT_INLINE void take_up(V (&sums)[MR][kColumnVectors], const T* from) {
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
        for (int i = 0; i < kColumnVectors; ++i)
            sums[r][i] = (V)load(reinterpret_cast<const float*>(from) + r * kPair + i * kWordLanes);
}
template <int MR, class T, class V> WEFT_INLINE void put_down(const V (&sums)[MR][kColumnVectors], T* to) {
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
        for (int i = 0; i < kColumnVectors; ++i)
            store(reinterpret_cast<float*>(to) + r * kPair + i * kWordLanes, (Vec<float>)sums[r][i]);
}

// Columns with one scale each, which comes last.
template <int MR, class Source>
void tile_of_columns(const Source& source, RoundedRows rows, Steps steps, int zero, int32_t* tile) {
    IntegerSums<MR> sums;
    if (steps.resume) take_up<MR>(sums, tile);
    else begin<MR>(sums, rows, 0, zero);
    products<MR>(source, rows, steps.from, steps.to, sums);
    put_down<MR>(sums, tile);
}

// sums += integers * scales (+ offsets times the sum of the row's numbers).
template <int MR, bool Offsets>
WEFT_INLINE void add_group(FloatSums<MR>& sums, const IntegerSums<MR>& whole, const RoundedRows& rows, int group,
                           const ColumnNumbers& numbers) {
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
        const RoundedGroup& of_row = rows.group[r * rows.groups + group];
#pragma GCC unroll 8
        for (int i = 0; i < kColumnVectors; ++i) {
            const Vec<float> x = __builtin_convertvector(whole[r][i], Vec<float>);
            sums[r][i] = fused(x, numbers.scale[i] * of_row.scale, sums[r][i]);
            if (Offsets) sums[r][i] = fused(numbers.offset[i], splat(of_row.total), sums[r][i]);
        }
    }
}

// Columns with a scale for every group of the depth; `steps` begin with a group.
template <int MR, bool Offsets, class Source>
void tile_of_groups(const Source& source, RoundedRows rows, Steps steps, int zero, float* tile) {
    FloatSums<MR> sums = {};
    if (steps.resume) take_up<MR>(sums, tile);
    for (int from = steps.from; from < steps.to; from += kGroupSteps) {
        const int group = from / kGroupSteps;
        IntegerSums<MR> whole;
        begin<MR>(whole, rows, group, zero);
        if (__builtin_expect(steps.to - from >= kGroupSteps, 1)) products<MR>(source, rows, from, from + kGroupSteps, whole);
        else products<MR>(source, rows, from, steps.to, whole);
        add_group<MR, Offsets>(sums, whole, rows, group, source.numbers(group));
    }
    put_down<MR>(sums, tile);
}

// What a kind's sums are put down as.
template <int Kind> using Kept = std::conditional_t<grouped(Kind), float, int32_t>;

// `count` rows of one tile.
template <int Kind, class Source, size_t... R>
inline void rounded_tile(const Source& source, RoundedRows rows, int count, Steps steps, int zero, Kept<Kind>* tile,
                         std::index_sequence<R...>) {
    using Tile = void (*)(const Source&, RoundedRows, Steps, int, Kept<Kind>*);
    if constexpr (grouped(Kind)) {
        constexpr Tile plain[] = {tile_of_groups<int(R) + 1, false, Source>...};
        constexpr Tile offset[] = {tile_of_groups<int(R) + 1, true, Source>...};
        (source.offsets() ? offset : plain)[count - 1](source, rows, steps, zero, tile);
    } else {
        constexpr Tile tiles[] = {tile_of_columns<int(R) + 1, Source>...};
        tiles[count - 1](source, rows, steps, zero, tile);
    }
}

// Pairs [first_pair, last_pair) of rows [first_row, last_row).
template <int Kind> class RoundedProduct {
public:
    RoundedProduct(const Instruction& instruction, const Weight& weight)
        : weight_(weight), rounding_(instruction.in[0], weight), finish_{instruction, weight} {}

    void run(int first_pair, int last_pair, int64_t first_row, int64_t last_row) {
        const int64_t near = std::max<int64_t>(kNearCodes / rounding_.stride(), 8 * kTile);
        for (int64_t from = first_row; from < last_row; from += near) {
            const int64_t count = std::min(near, last_row - from);
            const RoundedRows rows = rounding_.chunk(from, count);
            for (int pair = first_pair; pair < last_pair; ++pair) one_pair(from, rows, count, pair);
        }
    }

private:
    static constexpr int kTile = grouped(Kind) ? kGroupedTile : kWholeTile;
    static constexpr int kOfCodes = grouped(Kind) ? kGroupedOfCodes : kWholeOfCodes;
    static constexpr int64_t kNearCodes = 448 << 10;  // bytes of rows that stay in the second-level cache
    static constexpr int kSlab = 64;                  // steps whose words and numbers stay in the nearest cache

    enum Use : int { TILES_SCRATCH = 114 };

    void one_pair(int64_t from, const RoundedRows& rows, int64_t count, int pair) {
        const WordsOfCodes<Kind> codes(weight_, pair);
        if (count <= 2 * kOfCodes) return slabs<kOfCodes>(codes, steps_, from, rows, count, pair);
        slabs<kTile>(WordsOfPanel(codes, steps_, grouped(Kind) ? rows.groups : 0), kSlab, from, rows, count, pair);
    }

    // A slab of the depth is met by all rows before the next one is; sums are put down between slabs.
    template <int Tile, class Source>
    void slabs(const Source& source, int slab, int64_t from, const RoundedRows& rows, int64_t count, int pair) {
        auto* tiles = scratch<TILES_SCRATCH>().template take<Kept<Kind>>(count * kPair);
        for (int step = 0; step < steps_; step += slab) {
            const Steps steps{step, std::min(step + slab, steps_), step > 0};
            for (int64_t row = 0, left = (count + Tile - 1) / Tile; left; --left) {
                const int n = even_rows(count - row, left);
                if (steps.to == steps_) finish_.fetch(from + row, n, pair);
                rounded_tile<Kind>(source, rows.behind(row), n, steps, zero_, tiles + row * kPair,
                                   std::make_index_sequence<Tile>());
                if (steps.to == steps_) finish(from, row, n, rows, tiles + row * kPair, pair);
                row += n;
            }
        }
    }

    void finish(int64_t from, int64_t row, int count, const RoundedRows&, float* tile, int pair) const {
        finish_.rows(from + row, count, pair, tile);
    }
    // kCodeUnit is what the epilogue takes away again.
    void finish(int64_t from, int64_t row, int count, const RoundedRows& rows, const int32_t* tile, int pair) const {
        alignas(64) float sums[kWholeTile * kPair];
        for (int r = 0; r < count; ++r) {
            const float scale = rows.group[(row + r) * rows.groups].scale * kCodeUnit;
            for (int c = 0; c < kPair; ++c) sums[r * kPair + c] = float(tile[r * kPair + c]) * scale;
        }
        finish_.rows(from + row, count, pair, sums);
    }

    const Weight& weight_;
    Rounding rounding_;
    Finish<float> finish_;
    const int steps_ = steps_of(weight_.kind, weight_.depth), zero_ = zero_of(weight_);
};

}  // namespace weft
