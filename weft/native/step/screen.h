// The largest logit of each row, of which few are computed: from the highest bound (bounds.h) on down, as `linear` would,
// until no bound is left above the largest of them. The answer is that of all logits, bit by bit. Answer key: `linear` and
// row_sampler.h.
#pragma once

#include "bounds.h"
#include "linear.h"

namespace weft {

constexpr int kFirstPause = 16, kLongestPause = 1024;  // steps

struct Screen {
    int32_t instruction, unused;  // which of the program's gives the logits
    BoundCodes codes;
    float* tops;          // [most rows, pairs]: the highest bound of a row's columns
    uint64_t* best;       // [most rows]: the largest logit so far, and where; see `key_of`
    int64_t looked;       // pairs of rows that were computed so far
    int32_t pause, left;  // how many steps it does nothing after one that brought nothing, and how many of these are left
};

#if defined(__AVX512VNNI__) && defined(__AVX512BF16__)

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

// The largest logit of each of `rows` rows that `instruction` would give, and nothing else of them.
class Screening {
public:
    Screening(const Screen& screen, const Instruction& instruction, int64_t rows)
        : screen_(screen), instruction_(instruction), weight_(*static_cast<const Weight*>(instruction.p[WEIGHT])), rows_(rows),
          pairs_(pairs_of(weight_)), most_(4 * rows + pairs_ * std::max<int64_t>(rows / 8, 1) / 4) {
        std::fill_n(screen.best, rows, key_of(-INFINITY, 0));
    }

    // Whether it was worth it; false: a row was not finite, or too many logits could be the largest.
    bool run(Pool* pool) {
        pool_ = pool;
        pool->run(
            [](void* self, const TeamMember& me) {
                auto& it = *static_cast<Screening*>(self);
                it.bound(me);
                it.pool_->barrier(me.thread);
                it.look(me);
            },
            this);
        return !gave_up_;
    }
    int column(int64_t row) const { return column_of(screen_.best[row]); }
    int64_t looked() const { return looked_; }
    bool gave_up() const { return gave_up_; }

private:
    static constexpr int kRows = 8, kFewRows = 4;
    static constexpr float kLeast = 1e-30f;  // more than what products below the normal range lose
    struct Top {
        float bound;
        int row, pair;
        bool operator<(const Top& other) const { return bound > other.bound; }  // the highest is the first
    };

    // Bounds of all rows and this thread's pairs. Each thread rounds the rows for itself, and reads them from near.
    void bound(const TeamMember& me) {
        const Operand& x = instruction_.in[0];
        std::vector<BoundedBlock>& rounded = rounded_blocks();
        bool finite = true;
        blocks([&](int64_t row, int count, int i) {
            if (int(rounded.size()) <= i) rounded.emplace_back();
            finite = finite && rounded[i].round(row_of<const bf16>(x, row), x.stride, count, weight_.depth, screen_.codes,
                                                rows_ <= kFewRows);
        });
        if (!finite) return give_up();
        me.run_evenly(pairs_, [&](int64_t from, int64_t to) {
            for (int64_t pair = from; pair < to; ++pair)
                blocks([&](int64_t row, int count, int i) { bound(rounded[i].rows(), row, count, i, pair); });
        });
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

    // A single block of rows fetches what it will soon take, the first two of several the next pair.
    void bound(const BoundedRows& block, int64_t row, int count, int number, int64_t pair) const {
        static constexpr auto tiles = bounds_of_rows(std::make_index_sequence<kRows>());
        const int64_t bytes = bound_pair_bytes(weight_.depth);
        const uint8_t* const codes = screen_.codes.codes + pair * bytes;
        const bool alone = rows_ <= kRows;
        Vec<float> bounds[kRows][2];
        tiles[count - 1](block, codes, screen_.codes.steps + pair * bound_groups(weight_.depth) * kPair,
                         codes + (alone ? kSoon : bytes + number * bytes / 2),
                         alone        ? 2
                         : number < 2 ? 1
                                      : 0,
                         bounds);
        for (int r = 0; r < count; ++r) {
            const Vec<float> left = bounds[r][0], right = bounds[r][1];
            screen_.tops[(row + r) * pairs_ + pair] = kLeast + _mm512_reduce_max_ps((__m512)(left > right ? left : right));
        }
    }

    // Computes logits from the highest bound on down, of each row by one thread, or of parts of it where rows are few.
    void look(const TeamMember& me) {
        Product<InPairs> product(instruction_, weight_);
        const int64_t parts = std::max<int64_t>(1, me.threads / rows_);
        me.run_evenly(rows_ * parts, [&](int64_t from, int64_t to) { look(product, from, to, parts); });
    }

    void look(Product<InPairs>& product, int64_t from, int64_t to, int64_t parts) {
        static thread_local std::vector<Top> highest, others;  // their room stays
        highest.clear(), others.clear();
        auto share = [&](int64_t i) { return EvenShare(pairs_, int(i % parts), int(parts)); };
        auto tops = [&](int64_t i) { return screen_.tops + i / parts * pairs_; };
        for (int64_t i = from; i < to; ++i) {
            const float* const top = std::max_element(tops(i) + share(i).begin, tops(i) + share(i).end);
            highest.push_back({*top, int(i / parts), int(top - tops(i))});
        }
        compute(product, highest);
        for (int64_t i = from; i < to; ++i) {
            const size_t before = others.size();
            for (int64_t pair = share(i).begin; pair < share(i).end; ++pair)
                if (pair != highest[i - from].pair && tops(i)[pair] >= best_of(i / parts))
                    others.push_back({tops(i)[pair], int(i / parts), int(pair)});
            std::sort(others.begin() + before, others.end());
        }
        compute(product, others);
    }

    // In their order, but for those whose bound is below what was found; each asks for the next one's numbers.
    void compute(Product<InPairs>& product, const std::vector<Top>& tops) {
        auto wanted = [&](size_t i) { return i < tops.size() && tops[i].bound >= best_of(tops[i].row); };
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

    void compute(Product<InPairs>& product, int64_t row, int pair) {
        product.run(pair, pair + 1, row, 1);
        const float* const logits = row_of<const float>(instruction_.out, row);
        uint64_t found = 0;
        for (int c = pair * kPair; c < std::min(weight_.columns, (pair + 1) * kPair); ++c)
            found = std::max(found, key_of(logits[c], c));
        uint64_t seen = __atomic_load_n(&screen_.best[row], __ATOMIC_RELAXED);
        while (found > seen &&
               !__atomic_compare_exchange_n(&screen_.best[row], &seen, found, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
        looked_.fetch_add(1, std::memory_order_relaxed);
    }
    float best_of(int64_t row) const { return logit_of(__atomic_load_n(&screen_.best[row], __ATOMIC_RELAXED)); }

    void give_up() { gave_up_.store(true, std::memory_order_relaxed); }

    Pool* pool_ = nullptr;
    const Screen& screen_;
    const Instruction& instruction_;
    const Weight& weight_;
    const int64_t rows_;
    const int pairs_;
    const int64_t most_;  // pairs of rows to look at, beyond which all logits are computed sooner
    std::atomic<int64_t> looked_{0};
    std::atomic<bool> gave_up_{false};
};

// The ids of the largest logits that `instruction` would give, to every second of `values`, and whether they were found
// without computing all. Where this brings nothing it rests for a while.
inline bool largest_of_screen(Screen& screen, const Instruction& instruction, int64_t rows, double* values, Pool* pool) {
    if (screen.left) return --screen.left, false;
    Screening screening(screen, instruction, rows);
    const bool found = screening.run(pool);
    screen.looked += screening.looked();
    screen.pause = found ? 0 : std::min(std::max(2 * screen.pause, kFirstPause), kLongestPause);
    screen.left = screen.pause;
    for (int64_t r = 0; r < rows && found; ++r) values[2 * r] = screening.column(r), values[2 * r + 1] = 1;
    return found;
}

#else

inline bool largest_of_screen(Screen&, const Instruction&, int64_t, double*, Pool*) { return false; }

#endif

}  // namespace weft

// Whether this variant looks at bounds: where vectors add products of bytes, and logits are products of bf16 pairs.
WEFT_C int weft_suits_screen() {
#if defined(__AVX512VNNI__) && defined(__AVX512BF16__)
    return 1;
#else
    return 0;
#endif
}
// Bytes of a screen's codes, of its steps, of lengths and largest numbers together, and pairs of columns: sizes[0] to [3].
WEFT_C void weft_screen_sizes(const weft::Weight* weight, int64_t* sizes) {
    const int64_t pairs = weft::pairs_of(*weight), groups = weft::bound_groups(weight->depth);
    sizes[0] = pairs * weft::bound_pair_bytes(weight->depth);
    sizes[1] = pairs * groups * weft::kPair * int64_t(sizeof(float));
    sizes[2] = 2 * groups * int64_t(sizeof(float));
    sizes[3] = pairs;
}
// 0 where a number of the matrix is none or infinite; `screen` is then of no use.
WEFT_C int weft_screen_pack(weft::Pool* pool, const weft::Weight* weight, const weft::Screen* screen) {
    return weft::pack_for_bounds(*weight, screen->codes, pool);
}
// Of each of `rows` rows, which of the logits that `instruction` would give is the largest, to every second of `values`; 0
// where it gave up.
WEFT_C int weft_screen_largest(weft::Pool* pool, weft::Screen* screen, const weft::Instruction* instruction, int64_t rows,
                               double* values) {
    return weft::largest_of_screen(*screen, *instruction, rows, values, pool);
}
