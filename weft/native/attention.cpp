// Paged causal attention for prefill and decode rows, reading K and V where they lie in their pages.
//
// One order of operations per (row, head), whatever stands beside it: a score is one chain of multiply-adds over d =
// 0 .. D - 1; keys are taken in chunks of kChunk absolute positions from 0; each chunk rescales the running sum and
// is added key by key. Keys that a row may not see have weight exactly 0, so a row in a tile gives the bits that it
// gives alone. Lanes (row, head) that share a KV head share its chunk, transposed once into cache-resident scratch.
#include <algorithm>
#include <vector>

#include "parallel.h"
#include "vec.h"

namespace weft {
namespace {

constexpr int kChunk = 64;     // keys
constexpr int kRows = 6;       // lanes per register block
constexpr int kTileLanes = 96; // lanes that share one pass over the keys
constexpr long kSerialWork = 1 << 18;  // multiply-adds below which waking threads costs more than it gives

template <class S> struct Problem {
    const S *q, *k, *v;
    S* out;
    int64_t q_row, q_head;  // strides in elements
    const int32_t *kv_of_head, *positions, *run_of_row, *tables;
    int rows, heads, kv_heads, dim, block_size, table_width, window;
    double scale;
};

struct Tile {
    int first, rows, kv_head;
};

template <class T> struct Aligned {
    std::vector<T> memory;
    T* reserve(size_t n) {
        if (memory.size() < n + 64) memory.resize(n + 64);
        auto address = reinterpret_cast<uintptr_t>(memory.data());
        return reinterpret_cast<T*>((address + 63) / 64 * 64);
    }
};

template <class T> struct Scratch {
    T *q, *out, *peak, *total, *keys, *values, *scores, *keep;
    Aligned<T> memory;

    Scratch(int lanes, int dim, int padded) {
        size_t q_size = size_t(lanes) * dim, out_size = size_t(lanes) * padded;
        size_t keys_size = size_t(kChunk) * dim, values_size = size_t(kChunk) * padded;
        T* at = memory.reserve(q_size + out_size + 2 * lanes + keys_size + values_size + kRows * (kChunk + 1) + 64 * 8);
        auto take = [&](size_t n) {
            T* p = at;
            at += (n + 15) / 16 * 16;
            return p;
        };
        q = take(q_size), out = take(out_size), peak = take(lanes), total = take(lanes);
        keys = take(keys_size), values = take(values_size), scores = take(kRows * kChunk), keep = take(kRows);
    }
};

// K rows [kChunk][D] at `rows` -> keys [D][kChunk].
template <class S, class T> void transpose_keys(const S* const* rows, int dim, T* keys) {
    constexpr int W = kWidth<T>;
    int d = 0;
    for (; d + W <= dim; d += W)
        for (int c = 0; c < kChunk; c += W) {
            Vec<T> square[W];
            for (int i = 0; i < W; ++i) square[i] = load(rows[c + i] + d);
            transpose<T>(square);
            for (int i = 0; i < W; ++i) store(keys + (d + i) * kChunk + c, square[i]);
        }
    for (; d < dim; ++d)
        for (int c = 0; c < kChunk; ++c) keys[d * kChunk + c] = widen(rows[c][d]);
}

template <class T, int R> void score(const T* q, int dim, const T* keys, T* scores) {
    constexpr int W = kWidth<T>, P = kPanel;
    for (int c = 0; c < kChunk; c += P * W) {
        Vec<T> sums[R][P] = {};
        for (int d = 0; d < dim; ++d) {
            Vec<T> k[P];
            for (int j = 0; j < P; ++j) k[j] = load(keys + d * kChunk + c + j * W);
            for (int r = 0; r < R; ++r) {
                Vec<T> one = splat(q[r * dim + d]);
                for (int j = 0; j < P; ++j) sums[r][j] += one * k[j];
            }
        }
        for (int r = 0; r < R; ++r)
            for (int j = 0; j < P; ++j) store(scores + r * kChunk + c + j * W, sums[r][j]);
    }
}

// Turns one lane's scores into weights; keys outside [begin, end) of the chunk get 0. Returns the factor on earlier
// sums.
template <class T> T soften(T* scores, int begin, int end, T& peak, T& total) {
    constexpr int W = kWidth<T>;
    constexpr T low = -std::numeric_limits<T>::infinity();
    for (int c = 0; c < std::min(begin, kChunk); ++c) scores[c] = low;
    for (int c = std::max(end, 0); c < kChunk; ++c) scores[c] = low;
    Vec<T> top = splat(low);
    for (int c = 0; c < kChunk; c += W) {
        Vec<T> s = load(scores + c);
        top = s > top ? s : top;
    }
    T higher = std::max(peak, largest<T>(top));
    // A lane that has seen no key yet has peak -infinity; any finite level keeps its weights 0.
    T level = higher == low ? T(0) : higher;
    T keep = exp(splat(T(peak - level)))[0];
    Vec<T> added{};
    for (int c = 0; c < kChunk; c += W) {
        Vec<T> w = exp(load(scores + c) - level);
        store(scores + c, w);
        added += w;
    }
    total = total * keep + sum<T>(added);
    peak = higher;
    return keep;
}

template <class S, class T, int R, int P>
void weigh_panel(const T* scores, const T* keep, const S* const* values, int keys, int column, int padded, T* out) {
    constexpr int W = kWidth<T>;
    Vec<T> sums[R][P];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < P; ++j) sums[r][j] = load(out + r * padded + column + j * W) * keep[r];
    for (int c = 0; c < keys; ++c) {
        Vec<T> v[P];
        for (int j = 0; j < P; ++j) v[j] = load(values[c] + column + j * W);
        for (int r = 0; r < R; ++r) {
            Vec<T> one = splat(scores[r * kChunk + c]);
            for (int j = 0; j < P; ++j) sums[r][j] += one * v[j];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int j = 0; j < P; ++j) store(out + r * padded + column + j * W, sums[r][j]);
}

template <class S, class T, int R>
void weigh(const T* scores, const T* keep, const S* const* values, int keys, int padded, T* out) {
    constexpr int W = kWidth<T>;
    int column = 0;
    for (; column + kPanel * W <= padded; column += kPanel * W)
        weigh_panel<S, T, R, kPanel>(scores, keep, values, keys, column, padded, out);
    for (; column < padded; column += W) weigh_panel<S, T, R, 1>(scores, keep, values, keys, column, padded, out);
}

template <class S, class T> class TileWork {
public:
    TileWork(const Problem<S>& p, const Tile& tile, const std::vector<int>& heads, Scratch<T>& s)
        : p_(p), tile_(tile), heads_(heads), s_(s), lanes_(tile.rows * int(heads.size())),
          padded_((p.dim + kWidth<T> - 1) / kWidth<T> * kWidth<T>),
          direct_(padded_ == p.dim && (sizeof(S) == sizeof(T) || lanes_ <= 2 * kRows)), table_(p.tables + int64_t(p.run_of_row[tile.first]) * p.table_width),
          zeros_(padded_, S{}) {}

    void run() {
        take_queries();
        int first = p_.positions[tile_.first], end = p_.positions[tile_.first + tile_.rows - 1] + 1;
        int begin = p_.window ? std::max(0, first - p_.window + 1) : 0;
        for (int start = begin / kChunk * kChunk; start < end; start += kChunk)
            chunk(start, std::min(kChunk, end - start));
        give_results();
    }

private:
    int row(int lane) const { return tile_.first + lane / int(heads_.size()); }
    int head(int lane) const { return heads_[lane % heads_.size()]; }

    void take_queries() {
        for (int lane = 0; lane < lanes_; ++lane) {
            const S* q = p_.q + row(lane) * p_.q_row + head(lane) * p_.q_head;
            for (int d = 0; d < p_.dim; ++d) s_.q[lane * p_.dim + d] = widen(q[d]) * T(p_.scale);
            s_.peak[lane] = -std::numeric_limits<T>::infinity();
            s_.total[lane] = 0;
        }
        std::fill(s_.out, s_.out + size_t(lanes_) * padded_, T(0));
    }

    void chunk(int start, int keys) {
        const S *k_rows[kChunk], *v_rows[kChunk];
        for (int c = 0; c < kChunk; ++c) {
            int at = start + c;
            if (c >= keys) {
                k_rows[c] = v_rows[c] = zeros_.data();
                continue;
            }
            int64_t page = int64_t(table_[at / p_.block_size]) * p_.kv_heads + tile_.kv_head;
            int64_t offset = (page * p_.block_size + at % p_.block_size) * p_.dim;
            k_rows[c] = p_.k + offset, v_rows[c] = p_.v + offset;
        }
        transpose_keys<S, T>(k_rows, p_.dim, s_.keys);
        if (direct_) return blocks(start, keys, v_rows);
        const T* padded_rows[kChunk];
        for (int c = 0; c < keys; ++c) {
            T* to = s_.values + c * padded_;
            int d = 0;
            for (; d + kWidth<T> <= p_.dim; d += kWidth<T>) store(to + d, load(v_rows[c] + d));
            for (; d < padded_; ++d) to[d] = d < p_.dim ? T(widen(v_rows[c][d])) : T(0);
            padded_rows[c] = to;
        }
        blocks(start, keys, padded_rows);
    }

    template <class V> void blocks(int start, int keys, const V* const* values) {
        for (int lane = 0; lane < lanes_; lane += kRows) switch (std::min(kRows, lanes_ - lane)) {
            case 1: block<V, 1>(lane, start, keys, values); break;
            case 2: block<V, 2>(lane, start, keys, values); break;
            case 3: block<V, 3>(lane, start, keys, values); break;
            case 4: block<V, 4>(lane, start, keys, values); break;
            case 5: block<V, 5>(lane, start, keys, values); break;
            default: block<V, kRows>(lane, start, keys, values);
        }
    }

    template <class V, int R> void block(int lane, int start, int keys, const V* const* values) {
        score<T, R>(s_.q + lane * p_.dim, p_.dim, s_.keys, s_.scores);
        for (int r = 0; r < R; ++r) {
            int position = p_.positions[row(lane + r)];
            int begin = p_.window ? position - p_.window + 1 - start : 0;
            int end = std::min(position + 1 - start, keys);
            s_.keep[r] = soften<T>(s_.scores + r * kChunk, begin, end, s_.peak[lane + r], s_.total[lane + r]);
        }
        weigh<V, T, R>(s_.scores, s_.keep, values, keys, padded_, s_.out + size_t(lane) * padded_);
    }

    void give_results() {
        for (int lane = 0; lane < lanes_; ++lane) {
            S* out = p_.out + (int64_t(row(lane)) * p_.heads + head(lane)) * p_.dim;
            for (int d = 0; d < p_.dim; ++d) narrow(s_.out[lane * padded_ + d] / s_.total[lane], out[d]);
        }
    }

    const Problem<S>& p_;
    const Tile& tile_;
    const std::vector<int>& heads_;
    Scratch<T>& s_;
    int lanes_, padded_;
    bool direct_;  // V rows are whole vectors, and too few lanes share them for widening them once to pay
    const int32_t* table_;
    std::vector<S> zeros_;
};

// Tiles of consecutive rows of one run, per KV head that any query head reads.
template <class S> std::vector<Tile> tiles_of(const Problem<S>& p, const std::vector<std::vector<int>>& heads_of) {
    std::vector<Tile> tiles;
    for (int first = 0; first < p.rows;) {
        int end = first + 1;
        while (end < p.rows && p.run_of_row[end] == p.run_of_row[first]) ++end;
        for (int kv = 0; kv < p.kv_heads; ++kv) {
            int heads = int(heads_of[kv].size());
            if (!heads) continue;
            int step = std::max(1, kTileLanes / heads);
            for (int at = first; at < end; at += step) tiles.push_back({at, std::min(step, end - at), kv});
        }
        first = end;
    }
    return tiles;
}

template <class S, class T> void attend(const Problem<S>& p, int threads, TeamCall team) {
    std::vector<std::vector<int>> heads_of(p.kv_heads);
    for (int head = 0; head < p.heads; ++head) heads_of[p.kv_of_head[head]].push_back(head);
    size_t most = 0;
    for (auto& heads : heads_of) most = std::max(most, heads.size());
    auto tiles = tiles_of(p, heads_of);
    auto cost = [&](const Tile& t) {
        return long(t.rows) * long(heads_of[t.kv_head].size()) * (p.positions[t.first + t.rows - 1] + 1) * p.dim;
    };
    long work = 0;
    for (auto& tile : tiles) work += cost(tile);
    // Longest first, so that the last unit to be dealt is a short one.
    if (work >= kSerialWork && threads > 1)
        std::stable_sort(tiles.begin(), tiles.end(), [&](auto& a, auto& b) { return cost(a) > cost(b); });
    int lanes = std::max(kTileLanes, int(most));
    deal(int(tiles.size()), work < kSerialWork ? 1 : threads, team, [&](int i) {
        static thread_local int held_lanes = 0, held_dim = 0;
        static thread_local Scratch<T> scratch(0, 0, 0);
        if (lanes > held_lanes || p.dim > held_dim) {
            held_lanes = std::max(lanes, held_lanes), held_dim = std::max(p.dim, held_dim);
            scratch = Scratch<T>(held_lanes, held_dim, (held_dim + kWidth<T> - 1) / kWidth<T> * kWidth<T>);
        }
        TileWork<S, T>(p, tiles[i], heads_of[tiles[i].kv_head], scratch).run();
    });
}

template <class S, class T>
void entry(const void* q, int64_t q_row, int64_t q_head, const void* k, const void* v, void* out, const int32_t* kv_of_head,
           const int32_t* positions, const int32_t* run_of_row, const int32_t* tables, int table_width, int rows, int heads,
           int kv_heads, int dim, int block_size, int window, double scale, int threads, void* team) {
    Problem<S> p{static_cast<const S*>(q), static_cast<const S*>(k), static_cast<const S*>(v), static_cast<S*>(out),
                 q_row, q_head, kv_of_head, positions, run_of_row, tables,
                 rows, heads, kv_heads, dim, block_size, table_width, window, scale};
    attend<S, T>(p, threads, reinterpret_cast<TeamCall>(team));
}

}  // namespace
}  // namespace weft

#define WEFT_ATTENTION(NAME, STORED, COMPUTED)                                                                               \
    extern "C" void NAME(const void* q, int64_t q_row, int64_t q_head, const void* k, const void* v, void* out,              \
                         const int32_t* kv_of_head, const int32_t* positions, const int32_t* run_of_row,                     \
                         const int32_t* tables, int table_width, int rows, int heads, int kv_heads, int dim, int block_size, \
                         int window, double scale, int threads, void* team) {                                                \
        weft::entry<STORED, COMPUTED>(q, q_row, q_head, k, v, out, kv_of_head, positions, run_of_row, tables, table_width,   \
                                      rows, heads, kv_heads, dim, block_size, window, scale, threads, team);                 \
    }

WEFT_ATTENTION(weft_attention_f32, float, float)
WEFT_ATTENTION(weft_attention_bf16, weft::bf16, float)
WEFT_ATTENTION(weft_attention_f64, double, double)
