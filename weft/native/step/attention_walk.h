// Where packed pages of keys and values lie that a tile of rows walks through, chunk by chunk, and what comes next. Knows no
// product.
#pragma once

#include <algorithm>

#include "attention_units.h"
#include "cache.h"

namespace weft {

// Of one chunk: [begin, end) its keys, all of them that some row of a tile sees.
struct KeySpan {
    int first, begin, seen, end;  // absolute: first of the chunk; first scored; first weighed; last + 1

    // `window`: how many keys a row sees, its own the last; 0: all.
    KeySpan(const Unit& unit, int chunk, int window)
        : first(chunk * kChunk), end(std::min(first + kChunk, unit.position + unit.tokens)) {
        constexpr int panels = 4 * kWidth<float>;
        const int low = window ? std::max(0, unit.position - window + 1) : 0;
        // scored from a whole group of panels on, so that what is added together does not depend on the tile
        begin = std::max(first, low / panels * panels);
        seen = std::max(first, low / 2 * 2);
    }
};

// Pages of one head of a chunk's keys, and of what lies at the same places of the chunk that comes next.
class Walk {
public:
    // One stream's blocks and which of their heads.
    struct Blocks {
        const int32_t* table;
        int kv;
    };

    Walk(const Pages& pages, Blocks own, Blocks next, const KeySpan& keys, const KeySpan& later)
        : pages_(pages), own_(own), next_(next), begin_(keys.begin), end_(keys.end), distance_(later.begin - keys.begin),
          end_of_next_(later.end) {}

    const uint32_t* keys(int key) const { return keys_of(own_, key); }
    const uint32_t* values(int key) const { return values_of(own_, key); }

    // What lies where that of `key` does in what comes next; `none` where there is nothing.
    const uint32_t* keys_in_next(int key, const uint32_t* none) const {
        return key + distance_ < end_of_next_ ? keys_of(next_, key + distance_) : none;
    }
    const uint32_t* values_in_next(int key, const uint32_t* none) const {
        return key + distance_ < end_of_next_ ? values_of(next_, key + distance_) : none;
    }

    // What is read after the keys at `key`: those `step` further on, or the first values.
    const uint32_t* after_keys(int key, int step) const {
        if (key + step < end_) return keys(key + step);
        return values(std::min(begin_ + (key - begin_) % step, end_ - 1));
    }

private:
    const uint32_t* keys_of(Blocks blocks, int key) const {
        return pages_.keys<uint32_t>(blocks.table[pages_.block_of(key)], blocks.kv) + pages_.offset_of(key);
    }
    const uint32_t* values_of(Blocks blocks, int key) const {
        const auto* page = pages_.values<uint32_t>(blocks.table[pages_.block_of(key)], blocks.kv);
        return page + int64_t(pages_.offset_of(key) / 2) * pages_.dim;
    }

    const Pages& pages_;
    const Blocks own_, next_;
    const int begin_, end_, distance_, end_of_next_;
};

}  // namespace weft
