// Rows that the ranks of a group deal among themselves where there are many: each adds up and norms its own, and hands
// out what that gave. Fewer rows are everybody's: they meet once for them instead of twice. Knows no kernel.
#pragma once

#include "instruction.h"

namespace weft {

// Whether an instruction of this step has its rows dealt. The same on all ranks of its group.
inline bool deals_rows(const Instruction& i, const Step& step) {
    return i.n[MEMBERS] > 1 && step.rows[i.rows] >= i.n[DEALT_FROM];
}

inline EvenShare rows_of_member(const Instruction& i, const Step& step, int member) {
    return {step.rows[i.rows], member, i.n[MEMBERS]};
}

// The rows that this rank computes of an instruction that may be dealt: all of them where they are not.
inline EvenShare own_rows(const Instruction& i, const Step& step) {
    return deals_rows(i, step) ? rows_of_member(i, step, i.n[POSITION]) : EvenShare(step.rows[i.rows], 0, 1);
}

}  // namespace weft
