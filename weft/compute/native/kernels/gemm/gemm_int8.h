// Products of rows rounded to 8 bits with weights in codes. Within a group of the depth products are added as integers,
// which no order changes; groups are added in the order of the depth. A result's bits are the same for every number of
// rows, threads and places.
//
// A value of a group is code * scale + offset in fp32: it is not rounded to bf16, as it is where rows keep their numbers.
#pragma once

#include <utility>

#include "kernels/gemm/epilogue.h"
#include "kernels/gemm/gemm_partition.h"
#include "kernels/gemm/dot_int8_avx2.h"
#include "kernels/gemm/int8_words.h"

namespace weft {

#if defined(__AVX512VNNI__)
// Rows of a tile, whose sums fit the registers beside a step's words: out of a panel, out of codes as they lie. So many
// rows take words out of codes tile by tile, before a panel pays for being laid.
constexpr int kPanelTile = 6, kCodesTile = 4;
template <int Kind> constexpr int kDirectRows = 8;
#elif defined(WEFT_ONLY_AVX2)
constexpr int kPanelTile = 4, kCodesTile = 2;
template <int Kind> constexpr int kDirectRows = Kind == W_INT4 ? 8 : 12;
#else
constexpr int kPanelTile = 1, kCodesTile = 1;
template <int Kind> constexpr int kDirectRows = 2;
#endif

// Steps [from, to) of the depth; whether sums go on where a tile before put them down; which lines are asked for.
struct Steps {
    int from, to;
    bool resume;
    Lines lines;
};

template <int MR> using IntegerSums = Words[MR][kColumnVectors];
template <int MR> using FloatSums = Vec<float>[MR][kColumnVectors];

#if !defined(WEFT_ONLY_AVX2)

// Of each row over a group's first `count` steps, out of a pair's codes as they lie: a column's words of a step are two lanes.
template <int MR, int Kind>
WEFT_INLINE void products(const WordsOfCodes<Kind>& codes, const RoundedRows& rows, int group, int count, Lines lines,
                          IntegerSums<MR>& found) {
    Words sums[MR][kStepVectors] = {};
    Pointers<int8_t, MR> at({rows.codes + group * kGroup, rows.stride});
    const char *const own = codes.group(group), *const later = codes.later(group);
#pragma GCC unroll 4
    for (int j = 0; j < count; ++j, at.advance(kStep)) {
        Words words[kStepVectors];
        codes.fetch(later, j, lines);
        codes.step(own, j, words);
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
template <int MR, int Kind>
WEFT_INLINE void products(const WordsOfPanel<Kind>& panel, const RoundedRows& rows, int group, int count, Lines lines,
                          IntegerSums<MR>& sums) {
    const int32_t* at = panel.words(group * kGroupSteps);
    const char* const later = panel.later(group);
    Pointers<int8_t, MR> codes({rows.codes + group * kGroup, rows.stride});
    for (int j = 0; j < count; ++j, at += kStepBytes / 4, codes.advance(kStep)) {
        panel.fetch(later, j, lines);
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

#endif

// Begins with what takes the codes' zero away.
template <int MR> WEFT_INLINE void begin(IntegerSums<MR>& sums, const RoundedGroup* of_rows) {
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
        for (int i = 0; i < kColumnVectors; ++i) sums[r][i] = Words{} + of_rows[r].without_zero;
}

template <int MR> WEFT_INLINE void take_up(FloatSums<MR>& sums, const float* from) {
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
        for (int i = 0; i < kColumnVectors; ++i) sums[r][i] = mixed(load(from + r * kPair + i * kWordLanes));
}
template <int MR> WEFT_INLINE void put_down(const FloatSums<MR>& sums, float* to) {
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
        for (int i = 0; i < kColumnVectors; ++i) store(to + r * kPair + i * kWordLanes, mixed(sums[r][i]));
}

// What the columns of a kind bring to each group of the depth.
enum class Brings { NOTHING, SCALES, SCALES_AND_OFFSETS, SHORT_NUMBERS };

// sums += integers * scales (+ offsets times the sum of the row's numbers). Offsets of short numbers are a part of scales, by
// which both are multiplied together.
template <int MR, Brings What>
WEFT_INLINE void add_group(FloatSums<MR>& sums, const IntegerSums<MR>& whole, const RoundedGroup* of_rows,
                           const ColumnNumbers& numbers) {
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
        const RoundedGroup& of_row = of_rows[r];
#pragma GCC unroll 8
        for (int i = 0; i < kColumnVectors; ++i) {
            const Vec<float> x = __builtin_convertvector(whole[r][i], Vec<float>), own = splat(of_row.scale);
            if constexpr (What == Brings::SHORT_NUMBERS) {
                const Vec<float> beside = numbers.offset[i] * splat(of_row.total);
                sums[r][i] = fused(numbers.scale[i], fused(x, own, beside), sums[r][i]);
            } else {
                sums[r][i] = fused(x, What == Brings::NOTHING ? own : numbers.scale[i] * own, sums[r][i]);
                if (What == Brings::SCALES_AND_OFFSETS) sums[r][i] = fused(numbers.offset[i], splat(of_row.total), sums[r][i]);
            }
        }
    }
}

// A tile over `steps`, which begin with a group.
template <int MR, Brings What, class Source>
void rounded_tile(const Source& source, const RoundedRows& rows, const Steps& steps, float* tile) {
    FloatSums<MR> sums = {};
    if (steps.resume) take_up<MR>(sums, tile);
    int group = steps.from / kGroupSteps;
    const RoundedGroup* of_rows = rows.of(group);
    for (int from = steps.from; from < steps.to; from += kGroupSteps, ++group, of_rows += rows.count) {
        IntegerSums<MR> whole;
        begin<MR>(whole, of_rows);
        if (__builtin_expect(steps.to - from >= kGroupSteps, 1))
            products<MR>(source, rows, group, kGroupSteps, steps.lines, whole);
        else products<MR>(source, rows, group, steps.to - from, steps.lines, whole);
        if constexpr (What == Brings::NOTHING) add_group<MR, What>(sums, whole, of_rows, {});
        else add_group<MR, What>(sums, whole, of_rows, source.numbers(group));
    }
    put_down<MR>(sums, tile);
}

// `count` rows of one tile.
template <Brings What, class Source, size_t... R>
inline void rounded_tile_of(int count, const Source& source, const RoundedRows& rows, const Steps& steps, float* tile,
                            std::index_sequence<R...>) {
    constexpr void (*tiles[])(const Source&, const RoundedRows&, const Steps&,
                              float*) = {rounded_tile<int(R) + 1, What, Source>...};
    tiles[count - 1](source, rows, steps, tile);
}

template <int Kind> class RoundedProduct {
public:
    RoundedProduct(const Instruction& instruction, const Weight& weight)
        : weight_(weight), rounding_(instruction.in[0], weight, zero_of(weight), offset_unit(weight)),
          finish_{instruction, weight, 1.0f} {}

    // Rows that are multiplied at a time.
    int64_t near(int64_t) const { return std::max<int64_t>(kNearCodes / rounding_.stride(), 8 * kPanelTile); }

    // Pairs [first, last) of `count` rows from row `from` on.
    void run(int first, int last, int64_t from, int64_t count) {
        const RoundedRows rows = rounding_.chunk(from, count);
        for (int pair = first; pair < last; ++pair) one_pair(from, rows, count, pair);
    }

private:
    static constexpr int64_t kNearCodes = 448 << 10;  // bytes of rows that stay in the second-level cache
    static constexpr int kSlab = 512;                 // depth whose words and numbers stay in the nearest cache, about

    enum Use : int { TILES_SCRATCH = 114 };

    void one_pair(int64_t from, const RoundedRows& rows, int64_t count, int pair) {
        const WordsOfCodes<Kind> codes(weight_, pair, ahead(count));
        if (count <= kDirectRows<Kind>) return slabs<kCodesTile>(codes, steps_, from, rows, count, pair);
        const WordsOfPanel<Kind> panel(codes, steps_, grouped(Kind) ? rounding_.groups() : 0);
        slabs<kPanelTile>(panel, even_slab(weight_.depth, kSlab) / kStep, from, rows, count, pair);
    }

    // Where a pair's codes are taken once, as far as it takes them to come; else those of the next pair.
    int64_t ahead(int64_t count) const { return count > kCodesTile ? pair_bytes(weight_.kind, weight_.depth) : kSoon; }

    // A slab of the depth is met by all rows before the next one is; sums are put down between slabs.
    template <int Tile, class Source>
    void slabs(const Source& source, int slab, int64_t from, const RoundedRows& rows, int64_t count, int pair) {
        auto* tiles = scratch<TILES_SCRATCH>().template take<float>(count * kPair);
        const int of = ceil_div(int(count), Tile);
        for (int step = 0; step < steps_; step += slab) {
            for (int number = 0, row = 0; number < of; ++number) {
                const Steps steps{step, std::min(step + slab, steps_), step > 0,
                                  Lines::of_tile(number, of, WordsOfCodes<Kind>::kLines)};
                const int n = even_rows(count - row, of - number);
                float* tile = tiles + row * kPair;
                if (!number && steps.to == steps_) finish_.fetch(from, n, pair);
                one_tile<Tile>(source, rows.behind(row), n, steps, tile);
                if (steps.to == steps_) finish_.rows(from + row, n, pair, tile, count - row - n);
                row += n;
            }
        }
    }

    template <int Tile, class Source>
    void one_tile(const Source& source, const RoundedRows& rows, int count, const Steps& steps, float* tile) const {
        constexpr auto all = std::make_index_sequence<Tile>();
        if constexpr (!grouped(Kind)) rounded_tile_of<Brings::NOTHING>(count, source, rows, steps, tile, all);
        else if (Kind == W_INT4 && weight_.scale16)
            rounded_tile_of<Brings::SHORT_NUMBERS>(count, source, rows, steps, tile, all);
        else if (!weight_.offset) rounded_tile_of<Brings::SCALES>(count, source, rows, steps, tile, all);
        else rounded_tile_of<Brings::SCALES_AND_OFFSETS>(count, source, rows, steps, tile, all);
    }

    const Weight& weight_;
    Rounding rounding_;
    Finish<float> finish_;
    const int steps_ = steps_of(weight_.kind, weight_.depth);
};

}  // namespace weft
