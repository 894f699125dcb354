// The largest logit of each row, of which few are computed: from the highest bound (upper_bounds.h) on down, as `linear` would,
// until no bound is left above the largest of them. The answer is that of all logits, bit by bit. Answer key: `linear` and
// row_sampler.h.
#pragma once

#include <functional>

#include "kernels/argmax_bounds/upper_bounds.h"
#include "kernels/gemm/gemm.h"
#include "kernels/sampling/row_sampler.h"

namespace weft {

constexpr int kFirstPause = 1, kLongestPause = 1024;  // steps
constexpr int kFewRows = 2;                           // for which coarse codes are best: reading takes longer than multiplying
constexpr int kFineGroups = 1;                        // that are fine beside them: the first, where rows weigh most

// `call` runs on one thread, once per pruned argmax, when each row's logits at its highest bound are known or when there will
// be none: it exchanges what the ranks have found. `floors`, or null: [rows, 2]; a logit below the second of a pair is not
// searched for.
struct CandidateExchange {
    std::function<void()> call;
    const double* floors = nullptr;
};

// A logit and its column as a number that is larger for a larger logit, and of equal ones for the first column.
inline uint64_t key_of(float logit, int column) {
    uint32_t bits;
    logit += 0.0f;  // no negative zero
    std::memcpy(&bits, &logit, 4);
    bits = bits >> 31 ? ~bits : bits | 0x80000000u;
    return uint64_t(bits) << 32 | (0xffffffffu - uint32_t(column));
}
inline int column_of(uint64_t key) { return int(0xffffffffu - uint32_t(key)); }
inline float logit_of(uint64_t key) {
    const uint32_t ordered = uint32_t(key >> 32), bits = ordered >> 31 ? ordered & 0x7fffffffu : ~ordered;
    float logit;
    std::memcpy(&logit, &bits, 4);
    return logit;
}

#if defined(WEFT_BOUNDS_LOGITS)

// The largest logit of each of `rows` rows that `instruction` would give, unless it is below the row's floor, and nothing
// else of them.
class PrunedArgmax {
public:
    PrunedArgmax(const ArgmaxPruner& pruner, const Instruction& instruction, int64_t rows, const CandidateExchange& exchange)
        : exchange_(exchange), pruner_(pruner), instruction_(instruction),
          weight_(*static_cast<const Weight*>(instruction.p[WEIGHT])), rows_(rows), pairs_(pairs_of(weight_)),
          few_(rows <= kFewRows), most_(4 * rows + (few_ ? pairs_ / 3 : pairs_ * std::max<int64_t>(rows / 8, 1) / 4)) {
        std::fill_n(pruner.best, rows, key_of(-INFINITY, 0));
    }

    // Whether it was worth it; false: a row was not finite, or too many logits could be the largest.
    bool run(Pool* pool) {
        pool_ = pool;
        pool->run(
            [](void* self, const TeamMember& me) {
                auto& it = *static_cast<PrunedArgmax*>(self);
                it.bound(me);
                it.pool_->barrier(me.thread);
                with_product(it.instruction_, it.weight_, [&](auto product) {
                    if (!it.gave_up()) it.look_at_highest(product, me);  // all threads do, or none
                    it.exchange(me.thread);
                    if (!it.gave_up()) it.look_at_others(product, me);
                });
            },
            this);
        return !gave_up_;
    }
    int column(int64_t row) const { return column_of(pruner_.best[row]); }
    int64_t looked() const { return looked_; }
    bool gave_up() const { return gave_up_; }

private:
    static constexpr int kRows = 8;
    static constexpr float kLeast = 1e-30f;  // more than what products below the normal range lose
    struct Top {
        float bound;
        int row, pair;
        bool operator<(const Top& other) const { return bound > other.bound; }  // the highest is the first
    };

    // Bounds of all rows and this thread's pairs. Each thread rounds the rows for itself, and reads them from near.
    void bound(const TeamMember& me) {
        RowsInOrder ordered(instruction_.in[0], weight_, pruner_);
        std::vector<BoundedBlock>& rounded = rounded_blocks();
        bool finite = true;
        blocks([&](int64_t row, int count, int i) {
            if (int(rounded.size()) <= i) rounded.emplace_back();
            finite = finite && rounded[i].round(ordered, row, count, weight_.depth, pruner_, few_);
        });
        if (!finite) return give_up();
        me.run_evenly(pairs_, [&](int64_t from, int64_t to) {
            for (int64_t pair = from; pair < to; ++pair)
                blocks([&](int64_t row, int count, int i) { bound(rounded[i].rows(), row, count, i, int(pair)); });
        });
    }
    void exchange(int thread) {
        pool_->barrier(thread);
        if (!exchange_.call) return;
        if (!thread) exchange_.call();
        pool_->barrier(thread);
    }
    static std::vector<BoundedBlock>& rounded_blocks() {
        static thread_local std::vector<BoundedBlock> blocks;  // their room stays
        return blocks;
    }

    // f(first row, rows, number) of near-equal blocks.
    template <class F> void blocks(F&& f) const {
        int64_t row = 0;
        const int all = int((rows_ + kRows - 1) / kRows);
        for (int i = 0; i < all; ++i) {
            const int count = even_rows(rows_ - row, all - i);
            f(row, count, i);
            row += count;
        }
    }

    void bound(const BoundedRows& block, int64_t row, int count, int number, int pair) const {
        Vec<float> bounds[kRows][kBoundVectors];
        few_ ? bound_few(block, pair, bounds) : bound_many(block, number, pair, bounds);
        for (int r = 0; r < count; ++r) {
            for (int v = 0; v < kBoundVectors && few_; ++v) bounds[r][v] += bounds[count + r][v];  // what rounding left
            pruner_.tops[(row + r) * pairs_ + pair] = kLeast + highest_bound(bounds[r]);
        }
    }
    void bound_few(const BoundedRows& block, int pair, Vec<float> bounds[][kBoundVectors]) const {
        static constexpr auto tiles = bounds_of_rows<true, 2>(std::make_index_sequence<2 * kFewRows>());
        const BoundStream& stream = pruner_.few;
        tiles[block.count - 1](block, stream, pair_of(stream, int(pair)), kSoon, bounds);
    }
    // A single block of rows fetches what it will soon take, the first two of several the next pair.
    void bound_many(const BoundedRows& block, int number, int pair, Vec<float> bounds[][kBoundVectors]) const {
        static constexpr auto alone = bounds_of_rows<false, 2>(std::make_index_sequence<kRows>());
        static constexpr auto first = bounds_of_rows<false, 1>(std::make_index_sequence<kRows>());
        static constexpr auto others = bounds_of_rows<false, 0>(std::make_index_sequence<kRows>());
        const BoundStream& stream = pruner_.many;
        const bool single = rows_ <= kRows;
        const auto& tiles = single ? alone : number < 2 ? first : others;
        tiles[block.count - 1](block, stream, pair_of(stream, int(pair)),
                               single ? kSoon : bound_pair_bytes(stream) + 64 * number, bounds);
    }

    const float* tops(int64_t row) const { return pruner_.tops + row * pairs_; }
    int highest(int64_t row) const {
        RowSampler bounds(tops(row), pairs_);
        bounds.look();  // they are finite: see BoundedBlock
        return bounds.largest_id();
    }

    // The logits of each row's highest bound, which mostly leave nothing to do.
    template <class Product> void look_at_highest(Product& product, const TeamMember& me) {
        me.run_evenly(rows_, [&](int64_t from, int64_t to) {
            for (int64_t row = from; row < to; ++row) compute(product, row, highest(row));
        });
    }

    // Then from the next bound on down, of each row by one thread, or, where rows are few, of every second pair, third, ... by
    // each: where likely tokens have neighbouring numbers, each thread has some of them.
    template <class Product> void look_at_others(Product& product, const TeamMember& me) {
        static thread_local std::vector<Top> others;  // its room stays
        const int64_t parts = std::max<int64_t>(1, me.threads / rows_);
        me.run_evenly(rows_ * parts, [&](int64_t from, int64_t to) {
            others.clear();
            for (int64_t i = from; i < to; ++i) {
                const int64_t row = i / parts;
                const size_t before = others.size();
                const float *const bounds = tops(row), least = least_of(row);
                const int seen = highest(row);
                for (int pair = int(i % parts); pair < pairs_; pair += int(parts))
                    if (bounds[pair] >= least && pair != seen) others.push_back({bounds[pair], int(row), pair});
                std::sort(others.begin() + before, others.end());
            }
            compute(product, others);
        });
    }

    // In their order, but for those whose bound is below what was found; each asks for the next one's numbers.
    template <class Product> void compute(Product& product, const std::vector<Top>& tops) {
        auto wanted = [&](size_t i) { return i < tops.size() && tops[i].bound >= least_of(tops[i].row); };
        for (size_t i = 0; i < tops.size(); ++i) {
            if (wanted(i + 1)) fetch(tops[i + 1].pair);
            if (!wanted(i)) continue;
            if (looked_.load(std::memory_order_relaxed) >= most_) return give_up();
            compute(product, tops[i].row, tops[i].pair);
        }
    }
    void fetch(int pair) const {
        const char* const data = pair_data(weight_, pair);
        for (int64_t at = 0; at < pair_bytes(weight_.kind, weight_.depth); at += 64) _mm_prefetch(data + at, _MM_HINT_T1);
    }

    template <class Product> void compute(Product& product, int64_t row, int pair) {
        product.run(pair, pair + 1, row, 1);
        const float* const logits = row_of<const float>(instruction_.out, row);
        uint64_t found = 0;
        for (int c = pair * kPair; c < std::min(weight_.columns, (pair + 1) * kPair); ++c)
            found = std::max(found, key_of(logits[c], c));
        uint64_t seen = __atomic_load_n(&pruner_.best[row], __ATOMIC_RELAXED);
        while (found > seen &&
               !__atomic_compare_exchange_n(&pruner_.best[row], &seen, found, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
        looked_.fetch_add(1, std::memory_order_relaxed);
    }
    // The least logit that the largest may still be.
    float least_of(int64_t row) const {
        const float best = logit_of(__atomic_load_n(&pruner_.best[row], __ATOMIC_RELAXED));
        return exchange_.floors ? std::max(best, float(exchange_.floors[2 * row + 1])) : best;
    }

    void give_up() { gave_up_.store(true, std::memory_order_relaxed); }

    Pool* pool_ = nullptr;
    const CandidateExchange& exchange_;
    const ArgmaxPruner& pruner_;
    const Instruction& instruction_;
    const Weight& weight_;
    const int64_t rows_;
    const int pairs_;
    const bool few_;
    const int64_t most_;  // pairs of columns, each of one row, to look at, beyond which all logits are computed sooner
    std::atomic<int64_t> looked_{0};
    std::atomic<bool> gave_up_{false};
};

// Whether the next step of so many rows would be tried.
inline bool tries(const ArgmaxPruner& pruner, int64_t rows) { return !pruner.left && (rows <= kFewRows || pruner.many.data); }

// Ids of the largest logits that `instruction` would give, written to every second of `values`; returns whether all were found
// without computing every logit. Where pruning does not pay, it pauses for some steps, and no exchange with other ranks runs.
inline bool pruned_argmax(ArgmaxPruner& pruner, const Instruction& instruction, int64_t rows, double* values, Pool* pool,
                          const CandidateExchange& exchange) {
    if (pruner.left) return --pruner.left, false;
    if (!tries(pruner, rows)) return false;
    PrunedArgmax search(pruner, instruction, rows, exchange);
    const bool found = search.run(pool);
    pruner.looked += search.looked();
    pruner.pause = found ? 0 : std::min(std::max(2 * pruner.pause, kFirstPause), kLongestPause);
    pruner.left = pruner.pause;
    for (int64_t r = 0; r < rows && found; ++r) values[2 * r] = search.column(r), values[2 * r + 1] = 1;
    return found;
}

#else

inline bool tries(const ArgmaxPruner&, int64_t) { return false; }
inline bool pruned_argmax(ArgmaxPruner&, const Instruction&, int64_t, double*, Pool*, const CandidateExchange&) {
    return false;
}

#endif

}  // namespace weft

// Whether this variant looks at bounds: where vectors add products of bytes, four at a time or two.
WEFT_C int weft_suits_argmax_pruning() {
#if defined(WEFT_BOUNDS_LOGITS)
    return 1;
#else
    return 0;
#endif
}
// How large a pruner is: groups of the depth and pairs of columns; groups in fine codes, and bytes, of the codes for few rows
// and of those for many; how many rows are few.
WEFT_C void weft_argmax_pruner_sizes(const weft::Weight* weight, int64_t* sizes) {
    const int32_t pairs = weft::pairs_of(*weight), groups = weft::bound_groups(weight->depth);
    const weft::BoundStream few{nullptr, std::min(groups, weft::kFineGroups), groups}, many{nullptr, groups, groups};
    sizes[0] = groups, sizes[1] = pairs, sizes[2] = few.fine, sizes[3] = pairs * bound_pair_bytes(few);
    sizes[4] = many.fine, sizes[5] = pairs * bound_pair_bytes(many), sizes[6] = weft::kFewRows;
}
// 0 where a number of the matrix is none or infinite; `pruner` is then of no use.
WEFT_C int weft_argmax_pruner_pack(weft::Pool* pool, const weft::Weight* weight, const weft::ArgmaxPruner* pruner) {
    return weft::pack_for_bounds(*weight, *pruner, pool);
}
// Of each of `rows` rows, which of the logits that `instruction` would give is the largest, to every second of `values`; 0
// where it gave up.
WEFT_C int weft_argmax_pruner_largest(weft::Pool* pool, weft::ArgmaxPruner* pruner, const weft::Instruction* instruction,
                                      int64_t rows, double* values) {
    return weft::pruned_argmax(*pruner, *instruction, rows, values, pool, {});
}
