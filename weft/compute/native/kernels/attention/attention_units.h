// How attention is divided among threads before any work stealing.
//
// A unit is a tile (a few consecutive tokens of one run, times query heads that share a KV head) over all the keys that
// it sees. Units are ordered by cost, and each thread takes a contiguous range of equal cost. A unit that is too long for
// one thread is split between chunks of keys; the partial results of its chunks are merged in the workspace.
#pragma once

#include <algorithm>
#include <atomic>
#include <vector>

#include "runtime/instruction.h"

namespace weft {

#ifndef WEFT_CHUNK
#define WEFT_CHUNK 256
#endif
constexpr int kChunk = WEFT_CHUNK;  // keys, by absolute position, whose softmax is one piece

struct Heads {
    int kv, first, count;
};

// The keys of a run that this rank has, in order of their positions: all, or those of every `owners`-th KV block.
class HeldKeys {
public:
    explicit HeldKeys(const Instruction& i) : owner_(i.n[OWNER]), owners_(i.n[OWNERS]), tokens_(i.n[BLOCK_SIZE]) {}

    // How many stand before a position, which may be negative.
    int before(int position) const {
        if (owners_ < 2 || position <= 0) return std::max(position, 0);
        const int span = owners_ * tokens_, rest = position % span - owner_ * tokens_;
        return position / span * tokens_ + std::min(std::max(rest, 0), tokens_);
    }

private:
    const int owner_, owners_, tokens_;
};

struct Unit {
    int64_t row;  // first token's
    int run, tokens;
    Heads heads;
    int position;    // first token's
    int begin, end;  // chunks of the unit
    int from, to;    // those that are this thread's
    int slot;        // of the workspace, where other threads have the rest; or -1

    int rows() const { return tokens * heads.count; }
    bool whole() const { return slot < 0; }
};

class Units {
public:
    // `most`: rows of a tile; `slots`: units that may be cut, `slot_chunks`: chunks that a cut unit may have.
    Units(const Instruction& i, const Step& step, int most, int slots, int slot_chunks)
        : i_(i), step_(step), keys_(i), most_(most), slots_(slots), slot_chunks_(slot_chunks) {}

    // What is `thread`'s, in order. Valid until the thread's next call.
    const std::vector<Unit>& of(int thread, int threads) {
        static thread_local std::vector<Unit> mine;
        static thread_local std::vector<Heads> heads;
        mine.clear();
        group_heads(heads);
        int64_t total = 0;
        each(heads, [&](const Unit& unit) { total += cost(unit); });
        const int64_t low = total * thread / threads, high = total * (thread + 1) / threads;
        int64_t at = 0;
        each(heads, [&](Unit& unit) {
            const int64_t begin = at, end = at += cost(unit);
            if (end <= low || begin >= high) return;
            if (begin >= low && end <= high) {
                mine.push_back(unit);
            } else if ((end - begin) * 8 * threads < total || unit.end - unit.begin < 2 ||
                       unit.end - unit.begin > slot_chunks_ || !slots_) {
                if (begin >= low) mine.push_back(unit);
            } else {
                cut(unit, begin, low, high, total, threads, mine);
            }
        });
        return mine;
    }

private:
    void group_heads(std::vector<Heads>& heads) const {
        const int32_t* kv_of_head = static_cast<const int32_t*>(i_.p[KV_OF_HEAD]);
        heads.clear();
        for (int h = 0; h < i_.n[Q_HEADS];) {
            int end = h + 1;
            while (end < i_.n[Q_HEADS] && kv_of_head[end] == kv_of_head[h]) ++end;
            const int parts = (end - h + most_ - 1) / most_;
            for (int part = 0, first = h; part < parts; ++part) {
                const int last = h + int(int64_t(end - h) * (part + 1) / parts);
                heads.push_back({kv_of_head[h], first, last - first});
                first = last;
            }
            h = end;
        }
    }

    template <class F> void each(const std::vector<Heads>& heads, F&& f) const {
        const int window = i_.n[WINDOW];
        for (int run = 0; run < step_.runs; ++run) {
            const int64_t first = run ? step_.row_ends[run - 1] : 0, end = step_.row_ends[run];
            for (const Heads& one : heads) {
                const int tokens = most_ / one.count;
                for (int64_t row = first; row < end; row += tokens) {
                    Unit unit;
                    unit.row = row, unit.run = run, unit.heads = one;
                    unit.tokens = int(std::min<int64_t>(tokens, end - row));
                    unit.position = step_.positions[row];
                    unit.begin = window ? keys_.before(unit.position - window + 1) / kChunk : 0;
                    unit.end = (keys_.before(unit.position + unit.tokens) + kChunk - 1) / kChunk;
                    unit.from = unit.begin, unit.to = unit.end, unit.slot = -1;
                    f(unit);
                }
            }
        }
    }

    // A key costs its cache lines, and a little for each row.
    int64_t cost(const Unit& unit) const { return keys_cost(unit, unit.end); }
    int64_t keys_cost(const Unit& unit, int end_chunk) const {
        const int window = i_.n[WINDOW];
        const int64_t begin = window ? keys_.before(unit.position - window + 1) : 0;
        const int64_t end = std::min<int64_t>(int64_t(end_chunk) * kChunk, keys_.before(unit.position + unit.tokens));
        return (end - begin + 32) * (8 + unit.rows());
    }

    // The chunks of `unit` whose first key lies in this thread's piece.
    void cut(Unit unit, int64_t begin, int64_t low, int64_t high, int64_t total, int threads, std::vector<Unit>& mine) const {
        auto edge = [&](int64_t bound) {
            int chunk = unit.begin;
            while (chunk < unit.end && begin + (chunk == unit.begin ? 0 : keys_cost(unit, chunk)) < bound) ++chunk;
            return chunk;
        };
        unit.from = edge(low), unit.to = edge(high);
        if (unit.from >= unit.to) return;
        if (unit.from > unit.begin || unit.to < unit.end) unit.slot = owner_of(begin, total, threads);
        mine.push_back(unit);
    }

    // The thread in whose piece a unit begins: no other unit that is cut begins there.
    static int owner_of(int64_t begin, int64_t total, int threads) {
        int thread = 0;
        while (thread + 1 < threads && total * (thread + 1) / threads <= begin) ++thread;
        return thread;
    }

    const Instruction& i_;
    const Step& step_;
    const HeldKeys keys_;
    const int most_, slots_, slot_chunks_;
};

// Where threads merge the chunks of a shared unit. The owner of the memory zeroes it once.
struct Meeting {
    std::atomic<int32_t> arrived;
    char pad[60];
    // then, chunk by chunk, row by row: peak, total, 14 unused, dims rounded up to 16

    static int64_t row_floats(int dim) { return 16 + (dim + 15) / 16 * 16; }
    static int64_t bytes(int chunks, int rows, int dim) {
        return int64_t(sizeof(Meeting)) + int64_t(chunks) * rows * row_floats(dim) * int64_t(sizeof(float));
    }
    float* piece(int chunk, int rows, int dim) {
        return reinterpret_cast<float*>(this + 1) + int64_t(chunk) * rows * row_floats(dim);
    }
};

}  // namespace weft
