// Weights that come next, fetched by whoever waits for others: a step of few rows is bound by reading, and memory would be
// idle from when a thread is done until all are, and while its next product's first lines come. Knows no product.
#pragma once

#include <algorithm>
#include <vector>

#include "cache_ahead.h"
#include "linear_parts.h"

namespace weft {

// Of every instruction of a program the number of the LINEAR behind it whose weights are the next that are read; `count`
// where something else reads so much before that they would be gone again.
inline std::vector<int> linears_ahead(const Instruction* code, int count) {
    std::vector<int> found(count, count);
    for (int i = count - 2; i >= 0; --i) {
        const int next = code[i + 1].op;
        if (next == LINEAR) found[i] = i + 1;
        else if (next != ATTENTION && next != GROUPED && next != PER_HEAD) found[i] = found[i + 1];
    }
    return found;
}

// What one thread fetches towards its second-level cache: of its own part, which it begins at the front.
class WeightLines {
public:
    using Lines = CacheLines::Lines;

    // From here on the first lines of what `thread` of `threads` has of instruction `number`, a LINEAR, unless that was
    // planned already; nothing for more rows than kTileRows, whose products, not reading, take the time.
    void plan(int number, const Instruction& linear, const Step& step, int thread, int threads) {
        if (number == number_) return;
        number_ = number, codes_ = numbers_ = {};
        const int64_t rows = step.rows[linear.rows];
        if (!rows || rows > kTileRows) return;
        const Weight& weight = *static_cast<const Weight*>(linear.p[WEIGHT]);
        const Share share = parts_of(linear, weight, {0, rows}, rows, thread, threads).share;
        const int64_t pairs = share.last_pair - share.first_pair, of_pair = pair_bytes(weight.kind, weight.depth);
        codes_ = first_of(weight.data, share, of_pair, std::min(kMostBytes, pairs * of_pair));
        if (!grouped(weight.kind) || !codes_.count) return;
        const int64_t of_numbers = int64_t(ceil_div(weight.depth, kGroup)) * kPair * 2;
        numbers_ = first_of(weight.scale, share, of_numbers, codes_.count * 64 * of_numbers / of_pair);
    }

    // The next few of the weight's codes, neighbours, and one of the lines of their groups' scales; of both 0 where there
    // are no more.
    Lines take_codes() { return take(codes_, kLines); }
    Lines take_numbers() { return take(numbers_, 1); }

    // Fetches them; whether there were any.
    bool fetch() {
        const Lines codes = take_codes();
        codes.fetch(), take_numbers().fetch();
        return codes.count > 0;
    }

private:
    static constexpr int64_t kMostBytes = 32 << 10;  // a small part of a second-level cache
    static constexpr int kLines = 4;                 // between two looks at whether others are done

    static Lines first_of(const void* base, const Share& share, int64_t of_pair, int64_t bytes) {
        return {static_cast<const char*>(base) + share.first_pair * of_pair, int(bytes / 64)};
    }
    static Lines take(Lines& left, int most) {
        const Lines taken{left.from, std::min(most, left.count)};
        left.from += 64 * int64_t(taken.count), left.count -= taken.count;
        return taken;
    }

    int number_ = -1;
    Lines codes_{}, numbers_{};
};

}  // namespace weft
