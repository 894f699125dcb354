// What an instruction reads beside rows and a weight's numbers, fetched while others before it run: a step's weights leave
// nothing of it in the caches, and each line that is missed is a wait. Knows no kernel.
#pragma once

#include <algorithm>

#include "instruction.h"
#include "vec.h"

namespace weft {

constexpr int kMostParameters = 1 << 10;  // of longer ones the first; the others are read in order behind them

// While instruction `i` begins: the record of one that is soon to come, and what the one before that has beside its own.
inline void fetch_ahead(const Instruction* code, size_t i, size_t end) {
    const auto fetch = [](const void* from, size_t bytes) { fetch_to_read(static_cast<const char*>(from), int(bytes)); };
    if (i + 3 < end) fetch(code + i + 3, sizeof *code);
    if (i + 2 >= end) return;
    const Instruction& next = code[i + 2];
    if (next.op == LINEAR) fetch(next.p[WEIGHT], sizeof(Weight));
    if (next.op == ALL_REDUCE) fetch(next.p[EXCHANGE], sizeof(Exchange));
    if (next.op == NORM) fetch(next.p[NORM_WEIGHT], std::min(kMostParameters, next.out.columns) * sizeof(float));
}

}  // namespace weft
