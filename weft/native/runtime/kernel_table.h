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

// Whether the kernel splits its work into units, which another rank can steal.
inline bool has_units(int op) { return op == LINEAR || op == QKV || op == ATTENTION || op == GROUPED || op == PER_HEAD; }

// Null for an op that has none.
inline Kernel kernel_of(int op) {
    switch (op) {
        case EMBED: return embed;
        case NORM: return norm;
        case LINEAR: return linear;
        case QKV: return qkv;
        case ATTENTION: return attention_of_table;
        case SILU_MUL: return silu_mul;
        case ADD: return add;
        case ADD_BIAS: return add_bias;
        case SELECT: return select_rows;
        case COPY: return copy;
        case ROUTE: return route;
        case PLACE: return place_choices;
        case GATHER: return gather_rows;
        case GROUPED: return grouped_linear;
        case COMBINE: return combine;
        case DEAL: return deal_choices;
        case LATENT: return latent;
        case PER_HEAD: return per_head;
        case ROUND: return round_rows;
        default: return nullptr;
    }
}

}  // namespace weft
