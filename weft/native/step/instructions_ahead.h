// What an instruction reads beside rows and a weight's numbers, fetched while others before it run: a step's weights leave
// nothing of it in the caches, and each line that is missed is a wait. Knows no kernel.
#pragma once

#include "instruction.h"

namespace weft {

constexpr int64_t kMostParameters = 4 << 10;  // bytes: of longer ones the first, behind which a core looks ahead by itself

inline void fetch_lines(const void* from, int64_t bytes) {
    const char* const first = static_cast<const char*>(from);
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(first + at, 0, 2);
}

// While instruction `i` begins: the record of one that is soon to come, and what the one before that has beside its own.
inline void fetch_ahead(const Instruction* code, size_t i, size_t end) {
    if (i + 3 < end) fetch_lines(code + i + 3, sizeof *code);
    if (i + 2 >= end) return;
    const Instruction& next = code[i + 2];
    if (next.op == LINEAR) fetch_lines(next.p[WEIGHT], sizeof(Weight));
    if (next.op == ALL_REDUCE) fetch_lines(next.p[EXCHANGE], sizeof(Exchange));
    if (next.op == NORM)
        fetch_lines(next.p[NORM_WEIGHT], std::min<int64_t>(kMostParameters, next.out.columns * int64_t(sizeof(float))));
}

}  // namespace weft
