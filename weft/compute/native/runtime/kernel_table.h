// Which kernel computes an operation. Do not edit: written by
// `python -m weft.compute.ops.generate` from weft/compute/ops/operations/ and weft/compute/native/records.py.
#pragma once

#include "kernels/attention/attention.h"
#include "kernels/attention/latent.h"
#include "kernels/attention/merge.h"
#include "kernels/attention/rope.h"
#include "kernels/common/pointwise.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/gemm_grouped.h"
#include "kernels/moe/experts.h"
#include "kernels/moe/routed.h"
#include "runtime/exchange.h"
#include "runtime/instruction.h"

// clang-format off
namespace weft {

// Null for an exchange between ranks.
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
        case DISPATCH: return plan_dispatch;
        case LATENT: return latent;
        case PER_HEAD: return per_head;
        case ROUND: return round_rows;
        case PARTIAL: return partial_attention;
        case MERGE: return merge;
        default: return nullptr;
    }
}

}  // namespace weft
// clang-format on
