// Which kernel does an instruction.
#pragma once

#include "kernels/attention/attention.h"
#include "runtime/exchange.h"
#include "kernels/moe/experts.h"
#include "runtime/instruction.h"
#include "kernels/attention/latent.h"
#include "kernels/gemm/gemm_grouped.h"
#include "kernels/common/pointwise.h"
#include "kernels/attention/rope.h"
#include "kernels/moe/routed.h"

namespace weft {

// Attention of all rows, or of the sampled ones where n[TABLE] is their table: in[0] then holds no others.
inline void attention_of_table(const Instruction& i, const Step& step, const TeamMember& me) {
    if (!i.n[TABLE]) return attention(i, step, me);
    Step sampled = step;
    sampled.positions = step.sampled_positions, sampled.row_ends = step.sampled_row_ends;
    attention(i, sampled, me);
}

// Null for an op that has none.
inline Kernel kernel_of(int op) {
    switch (op) {
#define KERNEL_CASE(op, kernel) \
    case op: return kernel;
        FOR_EACH_KERNEL(KERNEL_CASE)
#undef KERNEL_CASE
        default: return nullptr;
    }
}

}  // namespace weft
