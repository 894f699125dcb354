// Lines of the KV cache that the next attention reads, fetched while rows of many streams are multiplied: products then
// wait for nothing but themselves, and attention for memory.
#pragma once

#include <vector>

#include "kernels/attention/kv_cache.h"

namespace weft {

// What LINEAR's p[CACHE_AHEAD] points to: the attention that comes next, and which part of what a thread fetches for it is
// fetched in this operation, of all those between two attentions.
struct CacheAhead {
    const Instruction* attention = nullptr;
    double from = 0, to = 0;
};

// Of every instruction of a program. Only packed caches: there a block's pages, of all heads, are neighbours.
inline std::vector<CacheAhead> caches_ahead(const Instruction* code, int count) {
    std::vector<CacheAhead> found(count);
    auto numbers = [&](int i) {
        const Weight& weight = *static_cast<const Weight*>(code[i].p[WEIGHT]);
        return double(weight.columns) * weight.depth;
    };
    for (int attention = 0, first = 0; attention < count; ++attention) {
        if (code[attention].op != ATTENTION) continue;
        double total = 0, before = 0;
        for (int i = first; i < attention; ++i) total += code[i].op == LINEAR ? numbers(i) : 0;
        for (int i = first; i < attention; ++i) {
            if (code[i].op != LINEAR) continue;
            const double until = before + numbers(i);
            if (code[attention].n[PACKED_CACHE]) found[i] = {code + attention, before / total, until / total};
            before = until;
        }
        first = attention + 1;
    }
    return found;
}

// What one thread fetches in one operation, dealt to the columns that it multiplies with.
class CacheLines {
public:
    // Of `thread` of a team of `threads`, whose columns are the `count` pairs from `first` on. Nothing where a stream has
    // several rows: that is a prompt, whose attention waits for no memory.
    void plan(const CacheAhead& ahead, const Step& step, int thread, int threads, int first, int count) {
        blocks_.clear();
        first_ = first, count_ = count;
        const Instruction& attention = *ahead.attention;
        if (step.rows[attention.rows] != step.runs || !count) return;
        const Pages pages(attention, 2);
        const int64_t bytes = pages.head * attention.n[KV_HEADS];
        lines_ = int((bytes + 63) / 64);
        int64_t total = 0;
        for (int run = 0; run < step.runs; ++run) total += read_by(attention, pages, step.positions[run]).size();
        const EvenShare own(total, thread, threads);
        const int64_t all = std::min(own.size(), kMostBytes / bytes);
        const int64_t from = own.begin + int64_t(double(all) * ahead.from), to = own.begin + int64_t(double(all) * ahead.to);
        int64_t at = 0;
        for (int run = 0; run < step.runs && at < to; ++run) {
            const Read read = read_by(attention, pages, step.positions[run]);
            const int32_t* table = step.block_tables + int64_t(run) * step.table_width;
            for (int64_t b = std::max<int64_t>(0, from - at); b < std::min(read.size(), to - at); ++b)
                blocks_.push_back(pages.keys<char>(table[read.begin + b], 0));
            at += read.size();
        }
    }
    const std::vector<const char*>& blocks() const { return blocks_; }

    // From here on `pair` is multiplied.
    void begin(int pair) {
        const int64_t blocks = int64_t(blocks_.size()), place = pair - first_;
        const bool own = blocks && place >= 0 && place < count_;
        block_ = own ? blocks * place / count_ : 0, end_ = own ? blocks * (place + 1) / count_ : 0;
        line_ = 0;
    }

    struct Lines {
        const char* from;
        int count;

        void fetch() const {
            for (int i = 0; i < count; ++i) __builtin_prefetch(from + int64_t(i) * 64, 0, 2);
        }
    };
    // The next of them, neighbours, `most` at most: 0 where there are no more.
    Lines take(int most) {
        if (block_ == end_) return {nullptr, 0};
        const Lines lines{blocks_[block_] + int64_t(line_) * 64, std::min(most, lines_ - line_)};
        if ((line_ += lines.count) == lines_) ++block_, line_ = 0;
        return lines;
    }

private:
    // Of a thread, for one attention: what its share of the last cache holds until then, beside weights and rows.
    static constexpr int64_t kMostBytes = 2 << 20;

    struct Read {
        int begin, end;  // blocks of a stream's table
        int64_t size() const { return end - begin; }
    };
    static Read read_by(const Instruction& attention, const Pages& pages, int position) {
        const int window = attention.n[WINDOW], first = window ? std::max(0, position - window + 1) : 0;
        return {pages.block_of(first), pages.block_of(position) + 1};
    }

    std::vector<const char*> blocks_;
    int64_t block_ = 0, end_ = 0;
    int first_ = 0, count_ = 0, lines_ = 0, line_ = 0;
};

}  // namespace weft
