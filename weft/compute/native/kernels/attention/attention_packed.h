// Attention over packed bf16 pages.
//
// Both GEMMs (Q K^T and P V) use AMX tiles where the CPU has them and dims and page size fit (attention_amx.h), else one
// inner loop over bf16 pairs: the row's pairs broadcast, times vectors of tokens (keys: pairs of dims) or of dims (values:
// pairs of tokens). Each chunk of keys gives its own maximum, sum of weights and weighted sums of values (online softmax);
// chunks are merged in order. So a row has the same bits alone, in any tile, batch or chunked prefill, and on any number of
// threads.
#pragma once

#include <utility>

#include "kernels/attention/attention_amx.h"
#include "kernels/attention/attention_bf16_pairs.h"
#include "kernels/attention/online_softmax.h"
#include "kernels/attention/attention_units.h"
#include "kernels/attention/kv_cache.h"
#include "kernels/attention/partial_rows.h"
#include "kernels/common/scratch.h"

namespace weft {

constexpr int kPairFloats = sizeof(RowPair) / sizeof(float);

class PackedAttention {
public:
    static constexpr int kRows = kAttentionRows;
    static constexpr bool kMeets = true;  // units may be cut

    PackedAttention(const Instruction& i, const Step& step)
        : i_(i), step_(step), pages_(i, 2), keys_(i), dim_(i.n[HEAD_DIM]), padded_((dim_ + kLanes - 1) / kLanes * kLanes),
          window_(i.n[WINDOW]), scale_(float(i.f[SCALE] * 1.4426950408889634)) {
        const size_t of_row = padded_ + Meeting::row_floats(dim_) + kChunk + kPairFloats * (kChunk + dim_) / 2;
        float* at = scratch<ATTENTION>().template take<float>(kRows * of_row + 3 * kLanes);  // padding for the last vector
        out_ = at, at += kRows * padded_;
        piece_ = at, at += kRows * Meeting::row_floats(dim_);
        scores_ = at, at += kRows * kChunk;
        // weights as wide as scores take their places: the nearest cache has little room beside keys and values
        weights_ = reinterpret_cast<RowPair*>(kWidensRows ? scores_ : at), at += kPairFloats * kRows * kChunk / 2;
        queries_ = reinterpret_cast<RowPair*>(at), at += kPairFloats * kRows * dim_ / 2 + kLanes;
#if defined(__AMX_BF16__)
        in_tiles_ = AmxAttention::fits(pages_);
#endif
    }

    // `next`: what this thread attends to afterwards, or null.
    void run(const Unit& unit, const Unit* next, Meeting* meeting) {
        run_one_of(std::make_integer_sequence<int, kRows>(), unit, next ? *next : unit, meeting);
    }

private:
    template <int... I>
    void run_one_of(std::integer_sequence<int, I...>, const Unit& unit, const Unit& next, Meeting* meeting) {
        using Tile = void (PackedAttention::*)(const Unit&, const Unit&, Meeting*);
        static constexpr Tile tiles[] = {&PackedAttention::tile<I + 1>...};
        (this->*tiles[unit.rows() - 1])(unit, next, meeting);
    }

    // Of one chunk: [begin, end) its keys, all of them that some row of the tile sees.
    struct Span {
        int first, begin, seen, end;  // absolute: first of the chunk; first scored; first weighed; last + 1
    };
    Span span(const Unit& unit, int chunk) const {
        const int first = chunk * kChunk, low = window_ ? keys_.before(unit.position - window_ + 1) : 0;
        // scored from a whole group of panels on, so that what is added together does not depend on the tile
        return {first, std::max(first, low / (4 * kLanes) * (4 * kLanes)), std::max(first, low / 2 * 2),
                std::min(first + kChunk, keys_.before(unit.position + unit.tokens))};
    }

    template <int MR> void tile(const Unit& unit, const Unit& next, Meeting* meeting) {
        take_queries(unit);
        if (fetches_near(MR) && &next != &unit) fetch_rows(next);
        std::fill(out_, out_ + MR * padded_, 0.0f);
        float peak[MR], total[MR];
        for (int r = 0; r < MR; ++r) peak[r] = kHidden, total[r] = 0;
        const int32_t* table = step_.block_tables + int64_t(unit.run) * step_.table_width;
        for (int chunk = unit.from; chunk < unit.to; ++chunk) {
            const Span keys = span(unit, chunk);
            const Unit& later = chunk + 1 < unit.to ? unit : next;
            const Span ahead = span(later, chunk + 1 < unit.to ? chunk + 1 : next.from);
            const int32_t* table_ahead = step_.block_tables + int64_t(later.run) * step_.table_width;
            const Walk walk{table, table_ahead, unit.heads.kv, later.heads.kv, ahead.begin - keys.begin, ahead.end};
            float* piece = unit.whole() ? piece_ : meeting->piece(chunk - unit.begin, MR, dim_);
            if (in_tiles_) score_in_tiles(keys, walk, unit.tokens == 1);
            else score<MR>(keys, walk);
            soften(unit, keys, piece);
            if (in_tiles_) weigh_in_tiles(keys, walk, piece);
            else weigh<MR>(keys, walk, piece);
            if (unit.whole()) add_chunk(MR, piece, peak, total);
        }
        if (!unit.whole()) {
            if (!last_to_arrive(unit, meeting)) return;
            for (int chunk = 0; chunk < unit.end - unit.begin; ++chunk)
                add_chunk(MR, meeting->piece(chunk, MR, dim_), peak, total);
        }
        if (i_.op == PARTIAL) give_parts(unit, peak, total);
        else give_results<MR>(unit, total);
    }

    static bool last_to_arrive(const Unit& unit, Meeting* meeting) {
        const int mine = unit.to - unit.from, all = unit.end - unit.begin;
        if (meeting->arrived.fetch_add(mine, std::memory_order_acq_rel) + mine < all) return false;
        meeting->arrived.store(0, std::memory_order_relaxed);
        return true;
    }

    void add_chunk(int rows, const float* piece, float* peak, float* total) const {
        for (int r = 0; r < rows; ++r)
            add_piece(piece + r * Meeting::row_floats(dim_), padded_, peak[r], total[r], out_ + r * padded_);
    }

    // Query rows, contiguous, at the GEMM's width.
    void take_queries(const Unit& unit) {
        bf16* rows[kRows];
        rows_of(i_.in[0], unit, rows);
        for (int r = 0; r < unit.rows(); ++r) put_row(rows[r], dim_, reinterpret_cast<RowNumber*>(queries_) + r * dim_);
#if defined(__AMX_BF16__)
        if (in_tiles_) amx_.shape(unit.rows());
#endif
    }

    // The next tile's queries, and where its results will go if this thread is the only one to have some: a prompt's lie
    // as far away as its keys and values.
    void fetch_rows(const Unit& next) const {
        bf16 *queries[kRows], *results[kRows];
        rows_of(i_.in[0], next, queries), rows_of(i_.out, next, results);
        for (int r = 0; r < next.rows(); ++r) {
            fetch_to_read(queries[r], dim_);
            if (next.whole()) fetch_to_write(results[r], dim_);
        }
    }

    // Where each row of the tile lies in x.
    void rows_of(const Operand& x, const Unit& unit, bf16** rows) const {
        for (int token = 0; token < unit.tokens; ++token)
            for (int h = 0; h < unit.heads.count; ++h)
                *rows++ = row_of<bf16>(x, unit.row + token) + (unit.heads.first + h) * dim_;
    }

    template <int MR> void give_results(const Unit& unit, const float* total) const {
        bf16* rows[MR];
        rows_of(i_.out, unit, rows);
        for (int r = 0; r < MR; ++r) {
            const Vec<float> inverse = splat(1.0f / total[r]);
            for (int d = 0; d < dim_; d += kLanes) give(rows[r] + d, load(out_ + r * padded_ + d) * inverse, dim_ - d);
        }
    }

    // Peaks are powers of two, levels of e.
    void give_parts(const Unit& unit, const float* peak, const float* total) const {
        const PartialRows<float> rows(i_, step_);
        for (int r = 0; r < unit.rows(); ++r) rows.put(unit, r, out_ + r * padded_, peak[r] * 0.6931471805599453f, total[r]);
    }

    // Finds pages, and those that lie `distance` keys further on in what comes next.
    struct Walk {
        const int32_t *table, *table_ahead;
        int kv, kv_ahead, distance, end_ahead;
    };
    const uint32_t* keys_at(const int32_t* table, int kv, int key) const {
        return pages_.keys<uint32_t>(table[pages_.block_of(key)], kv) + pages_.place_of_key(pages_.offset_of(key));
    }
    const uint32_t* values_at(const int32_t* table, int kv, int key) const {
        return pages_.values<uint32_t>(table[pages_.block_of(key)], kv) + int64_t(pages_.offset_of(key) / 2) * dim_;
    }

#if defined(__AMX_BF16__)
    static constexpr int kPanels = 4;  // of 16 keys or dims, whose sums the registers hold

    void score_in_tiles(const Span& keys, const Walk& walk, bool few) {
        for (int key = keys.begin; key < keys.end; key += kPanels * kLanes) {
            const int count = std::min(kPanels, (keys.end - key + kLanes - 1) / kLanes);
            const uint32_t* panels[kPanels];
            for (int j = 0; j < count; ++j) {
                panels[j] = keys_at(walk.table, walk.kv, key + j * kLanes);
                if (few) fetch_beside(keys, walk, key + j * kLanes);
            }
            AmxAttention::score(reinterpret_cast<const bf16*>(queries_), dim_, panels, count, scores_ + (key - keys.first),
                                kChunk);
        }
    }

    // For a panel's keys: their values, and the keys that come after the registers' panels, here or in what comes next.
    void fetch_beside(const Span& keys, const Walk& walk, int key) {
        const char* values = reinterpret_cast<const char*>(values_at(walk.table, walk.kv, key));
        for (int i = 0; i < kLanes * dim_ * 2; i += 64) __builtin_prefetch(values + i, 0, 2);
        const int later = key + kPanels * kLanes, first = keys.begin + walk.distance + (key - keys.begin) % (kPanels * kLanes);
        if (later < keys.end) fetch_keys(keys_at(walk.table, walk.kv, later));
        else if (first < walk.end_ahead) fetch_keys(keys_at(walk.table_ahead, walk.kv_ahead, first));
    }
    void fetch_keys(const uint32_t* panel) {
        for (int d = 0; d < dim_ / 2; ++d) __builtin_prefetch(panel + d * kKeyPanel);
    }

    void weigh_in_tiles(const Span& keys, const Walk& walk, float* piece) {
        if (AmxAttention::step(pages_) == kAmxStep) weigh_in_steps<kAmxStep>(keys, walk, piece);
        else weigh_in_steps<kAmxStep / 2>(keys, walk, piece);
    }

    template <int Step> void weigh_in_steps(const Span& keys, const Walk& walk, float* piece) {
        settle_memory();
        for (int d = 0; d < dim_; d += kPanels * kLanes) {
            const int count = std::min(kPanels, (dim_ - d) / kLanes);
            AmxAttention::zero();
            for (int key = keys.seen / Step * Step; key < keys.end; key += Step)
                AmxAttention::weigh<Step != kAmxStep>(reinterpret_cast<const bf16*>(weights_) + (key - keys.first), kChunk,
                                                      values_at(walk.table, walk.kv, key) + d, dim_, count);
            AmxAttention::put_down(piece + 16 + d, Meeting::row_floats(dim_), count);
        }
    }
#else
    void score_in_tiles(const Span&, const Walk&, bool) {}
    void weigh_in_tiles(const Span&, const Walk&, float*) {}
#endif

    template <int MR> void score(const Span& keys, const Walk& walk) {
        constexpr int NV = panels_beside(MR);
        for (int key = keys.begin; key < keys.end; key += NV * kLanes) {
            const int left = (keys.end - key + kLanes - 1) / kLanes;
            if (left >= NV) {
                score_panels<MR, NV>(keys, walk, key);
            } else {
                for (int j = 0; j < left; ++j) score_panels<MR, 1>(keys, walk, key + j * kLanes);
            }
        }
    }

    template <int MR, int NV> void score_panels(const Span& keys, const Walk& walk, int key) {
        float* const scores = scores_ + (key - keys.first);
        const uint32_t *b[NV], *ahead[NV];
        for (int j = 0; j < NV; ++j) {
            const int at = key + j * kLanes;
            b[j] = keys_at(walk.table, walk.kv, at);
            ahead[j] = fetches_near(MR) ? after_keys(keys, walk, at, NV * kLanes) : in_next(walk, at, b[j]);
        }
        Vec<float> sums[MR][NV] = {};
        multiply<MR, NV, false>({queries_, dim_ / 2}, b, ahead, kKeyPanel, dim_ / 2, 0, sums);
#pragma GCC unroll 16
        for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
            for (int j = 0; j < NV; ++j) store(scores + r * kChunk + j * kLanes, sums[r][j]);
    }

    // Keys that lie where those of `key` do in what comes next; `none` where there are none.
    const uint32_t* in_next(const Walk& walk, int key, const uint32_t* none) const {
        const int later = key + walk.distance;
        return later < walk.end_ahead ? keys_at(walk.table_ahead, walk.kv_ahead, later) : none;
    }
    // What is read after the keys at `key`: those `step` further on, or the first values.
    const uint32_t* after_keys(const Span& keys, const Walk& walk, int key, int step) const {
        if (key + step < keys.end) return keys_at(walk.table, walk.kv, key + step);
        const int first = keys.begin + (key - keys.begin) % step;
        return values_at(walk.table, walk.kv, std::min(first, keys.end - 1));
    }

    // Of all rows first the peaks, then the weights: what either waits for at its row's end is little beside the next row's.
    void soften(const Unit& unit, const Span& keys, float* piece) {
        const ChunkScores chunk(scores_, reinterpret_cast<RowNumber*>(weights_), kChunk, keys.begin - keys.first,
                                keys.end - keys.first, scale_);
        const int64_t floats = Meeting::row_floats(dim_);
        each_row(unit, keys, [&](int r, int begin, int end) { piece[r * floats] = chunk.peak(r, begin, end); });
        each_row(unit, keys,
                 [&](int r, int begin, int end) { piece[r * floats + 1] = chunk.weigh(r, begin, end, piece[r * floats]); });
    }

    // f(row of the tile, [begin, end) of the chunk's keys that it sees)
    template <class F> WEFT_INLINE void each_row(const Unit& unit, const Span& keys, F&& f) const {
        for (int token = 0, r = 0; token < unit.tokens; ++token) {
            const int position = unit.position + token, end = std::min(keys.end, keys_.before(position + 1)) - keys.first;
            const int begin = std::max(keys.begin, window_ ? keys_.before(position - window_ + 1) : 0) - keys.first;
            for (int h = 0; h < unit.heads.count; ++h, ++r) f(r, begin, end);
        }
    }

    // Weights times values.
    template <int MR> void weigh(const Span& keys, const Walk& walk, float* piece) {
        constexpr int NV = panels_beside(MR);
        int d = 0;
        for (; d + NV * kLanes <= dim_; d += NV * kLanes) weigh_panels<MR, NV, false>(keys, walk, d, piece);
        for (; d + kLanes <= dim_; d += kLanes) weigh_panels<MR, 1, false>(keys, walk, d, piece);
        if (d < dim_) weigh_panels<MR, 1, true>(keys, walk, d, piece);
    }

    template <int MR, int NV, bool Last>
    WEFT_INLINE void weigh_panels(const Span& keys, const Walk& walk, int d, float* piece) {
        const int64_t floats = Meeting::row_floats(dim_);
        Vec<float> sums[MR][NV] = {};
        for (int key = keys.seen; key < keys.end;) {
            const int end = std::min(keys.end, key - pages_.offset_of(key) + pages_.tokens), later = key + walk.distance;
            const uint32_t *page = values_at(walk.table, walk.kv, key) + d, *page_ahead = page;
            if (fetches_near(MR))
                page_ahead = end < keys.end ? values_at(walk.table, walk.kv, end) + d : in_next(walk, keys.begin, page);
            else if (later < walk.end_ahead) page_ahead = values_at(walk.table_ahead, walk.kv_ahead, later) + d;
            const uint32_t *b[NV], *ahead[NV];
            for (int j = 0; j < NV; ++j) b[j] = page + j * kLanes, ahead[j] = page_ahead + j * kLanes;
            const RowPair* weights = weights_ + (key - keys.first) / 2;
            multiply<MR, NV, Last>({weights, kChunk / 2}, b, ahead, dim_, (end - key + 1) / 2, dim_ - d, sums);
            key = end;
        }
#pragma GCC unroll 16
        for (int r = 0; r < MR; ++r)
#pragma GCC unroll 8
            for (int j = 0; j < NV; ++j) store(piece + r * floats + 16 + d + j * kLanes, sums[r][j]);
    }

    const Instruction& i_;
    const Step& step_;
    const Pages pages_;
    const HeldKeys keys_;
    const int dim_, padded_, window_;
    const float scale_;
    bool in_tiles_ = false;
#if defined(__AMX_BF16__)
    AmxAttention amx_;
#endif
    float *out_, *piece_, *scores_;
    RowPair *weights_, *queries_;
};

}  // namespace weft
