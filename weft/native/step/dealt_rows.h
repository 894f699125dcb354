// Rows that the ranks of a group deal among themselves where there are many: each adds up and norms its own, and hands
// out what that gave. Fewer rows are everybody's: they meet once for them instead of twice. Knows no kernel.
#pragma once

#include "instruction.h"

namespace weft {

struct OwnRows {
    int64_t begin, end;
    int64_t count() const { return end - begin; }
};

// Whether an instruction of this step has its rows dealt. The same on all ranks of its group.
inline bool deals_rows(const Instruction& i, const Step& step) {
    return i.n[MEMBERS] > 1 && step.rows[i.rows] >= i.n[DEALT_FROM];
}

inline OwnRows rows_of_member(const Instruction& i, const Step& step, int member) {
    const int64_t rows = step.rows[i.rows], members = i.n[MEMBERS];
    return {rows * member / members, rows * (member + 1) / members};
}

// The rows that this rank computes of an instruction that may be dealt: all of them where they are not.
inline OwnRows own_rows(const Instruction& i, const Step& step) {
    if (!deals_rows(i, step)) return {0, step.rows[i.rows]};
    return rows_of_member(i, step, i.n[POSITION]);
}

}  // namespace weft
