// Weights that the next product begins with, fetched towards the second-level cache by a thread that is done with its part
// of the one before: while it waits for others, and while norms and attention leave the memory idle. Knows no product.
#pragma once

#include <algorithm>
#include <vector>

#include "linear_parts.h"

namespace weft {

// Of every instruction of a program the LINEAR that comes next, or null. None for what is followed by `meets` (an exchange)
// before it: other ranks would be told later that this one has come.
template <class Meets> inline std::vector<const Instruction*> products_ahead(const Instruction* code, int count, Meets meets) {
    std::vector<const Instruction*> found(count);
    const Instruction* next = nullptr;
    for (int i = count; i--;) {
        found[i] = next;
        if (code[i].op == LINEAR) next = code + i;
        else if (meets(code[i].op)) next = nullptr;
    }
    return found;
}

// What a thread begins `product` with, of a single row and codes of 4 bits alone: these are multiplied about as fast as they
// come, so that the memory rests wherever nothing is multiplied. More rows, or more bits, leave nothing to gain.
struct FirstWeights {
    const char* from = nullptr;
    int64_t bytes = 0;

    FirstWeights(const Instruction& product, const Step& step, const TeamMember& me) {
        const Weight& weight = *static_cast<const Weight*>(product.p[WEIGHT]);
        if (weight.kind != W_INT4 || step.rows[product.rows] != 1) return;
        const Share own = parts_of(product, weight, {0, 1}, 1, me.thread, me.threads).share;
        from = pair_data(weight, own.first_pair);
        bytes = std::min(kMostBytes, (own.last_pair - own.first_pair) * pair_bytes(weight.kind, weight.depth));
    }

    void fetch() const {
        for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + at, 0, 2);
    }

private:
    static constexpr int64_t kMostBytes = 32 << 10;
};

}  // namespace weft
