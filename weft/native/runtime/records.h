// The operations, their operands' indices, and the records that Python fills. Do not edit: written by
// `python -m weft.ops.generate` from weft/ops/operations/ and weft/native/records.py.
#pragma once


#include <stdint.h>

// clang-format off
namespace weft {

constexpr int MAX_ROW_REGISTERS = 64;

enum Op : int32_t {
    EMBED = 1,  // out[r] = table row ids[r] - n[LO], zero where it is held elsewhere
    NORM = 2,  // out[r] = rms norm of in0[r], which in1[r] is added to before, where there is one
    LINEAR = 3,  // out[r] (op)= in0[r] @ weight^T + bias, by `epilogue`
    QKV = 4,  // q/k norm, rope and cache write of packed rows [q heads | k heads | v heads]; out = rotated q
    ATTENTION = 5,  // out[r] = attention of q in in0[r] over the cache
    SILU_MUL = 6,  // out[r] = silu(in0[r][:n]) * in0[r][n:]
    ADD = 7,  // out[r] += in0[r]
    ADD_BIAS = 8,  // out[r] += p[BIAS]
    SELECT = 9,  // in0, and in1 where there is one, keep rows step.sampled_rows alone, in place; out = in0
    COPY = 10,  // a rectangle of rows and columns
    ROUTE = 11,  // out[r] = choices by the router's logits in in0[r]; see experts.h
    PLACE = 12,  // out[r] = where the answers to the choices in in0[r] will lie, sorted by slot
    GATHER = 13,  // rows of in0 in the order of p[ORDER]
    GROUPED = 14,  // rows sorted by slot, each slot's times its own weight
    COMBINE = 15,  // out[r] = weighted sum of the answers in in0 at the places in1[r]
    DISPATCH = 16,  // out[r] = where the answers to the own choices arrive, by the block's choices in in0; see routed.h
    LATENT = 17,  // latents of in1 go to the cache; out = the rotated parts of queries in in0; see latent.h
    PER_HEAD = 18,  // each head's columns of in0 times its own weight
    ROUND = 19,  // out = in0 on the exact model's grid
    ALL_REDUCE = 20,  // sum of rows over ranks
    ALL_GATHER = 21,  // rows of all ranks on each
    REDUCE_SCATTER = 22,  // sum of rows over ranks, each keeps its own
    ALL_TO_ALL = 23,  // exchange of rows between ranks
    ROUTED = 24,  // an all_to_all of rows with the sizes that DISPATCH found
};

// Indices into Instruction::n, ::p and ::f. Operations use the same ones for different things.
enum N : int32_t {
    LO = 0,
    HELD = 1,
    EPILOGUE = 2,
    Q_HEADS = 0,
    KV_HEADS = 1,
    HEAD_DIM = 2,
    BLOCK_SIZE = 3,
    WINDOW = 4,
    ROPE_DIM = 5,
    PACKED_CACHE = 6,
    WORK_CHUNKS = 7,
    IN_STEP = 1,
    OUT_STEP = 3,
    TABLE = 9,
    TOP_K = 0,
    SIGMOID = 1,
    NORMALIZE = 2,
    GROUPS = 3,
    TOP_GROUPS = 4,
    GROUP_BEST = 5,
    MOST = 1,
    HERE_LO = 2,
    HERE_HI = 3,
    EXPERTS = 4,
    TP = 5,
    EP = 6,
    PLACE_IN_BLOCK = 7,
    FIRST_RANK = 8,
    ADDENDS = 1,
    SLOTS = 0,
    GROUP = 0,
    MEMBERS = 1,
    POSITION = 2,
    KIND = 3,
};

enum P : int32_t {
    WEIGHT = 0,
    BIAS = 1,
    NORM_WEIGHT = 0,
    K_CACHE = 0,
    V_CACHE = 1,
    KV_OF_HEAD = 2,
    COS_SIN = 3,
    Q_NORM = 4,
    K_NORM = 5,
    WORKSPACE = 3,
    WEIGHTS = 0,
    CORRECTION = 0,
    REPLICAS = 0,
    SLOT_OF = 1,
    TALLY = 2,
    ENDS = 3,
    ORDER = 4,
    SORTED_WEIGHTS = 5,
    SENT_ROWS = 6,
    SENT_ANSWERS = 7,
    ARRIVED_WEIGHTS = 8,
    SIZES = 9,
    EDGES = 10,
    COUNT = 0,
    EXCHANGE = 0,
};

enum F : int32_t {
    EPS = 0,
    SCALE = 1,
};

// Rows that an instruction reads or writes.
struct Operand {
    void* base;  // first row; null: a step's own pointer (ids, ...), which Step has
    int64_t stride;  // elements from row to row
    int32_t dtype;  // a Dtype
    int32_t columns;
};

// One operation of a program. Enums N, F and P are the indices into n, f and p.
struct Instruction {
    int32_t op;  // an Op
    int32_t rows;  // row register: number of rows of out (of in0 where there is no out)
    int32_t exact;  // 1: results on the exact model's grid (see weft/ops/reference/exact_ops.py), computed in fp64
    int32_t name;  // for profiles: which module's
    Operand in[2];
    Operand out;
    int32_t n[12];
    double f[2];
    const void* p[12];
    int64_t cache_stride[2];  // elements from block to block, from head to head, of K_CACHE and of V_CACHE alike
};

// The numbers of one step. All pointers are host memory that lives until the step is done.
struct Step {
    int64_t rows[64];  // by row register
    const int64_t* ids;  // EMBED's where its operand has no base
    const int32_t* positions;  // of the attention block's rows, like the next two
    const int32_t* slots;
    const int32_t* run_of_row;
    const int32_t* row_ends;  // cumulative rows of the runs
    const int32_t* block_tables;  // [runs, table_width]
    int32_t runs;
    int32_t table_width;
    const int64_t* sampled_rows;  // ascending numbers among the rows that the rank holds of the residual stream
    const int32_t* sampled_positions;  // of the attention block's sampled rows, like the next
    const int32_t* sampled_row_ends;
    const int64_t* starts[2];  // first row of every rank of the stage (and the end): all rows, sampled rows
};

// A matrix [columns (out), depth (in)] packed in pairs of 16-column panels; weight.h has the order of elements.
struct Weight {
    int32_t kind;  // a WeightKind
    int32_t columns;
    int32_t depth;
    int32_t interleaved;  // gate and up alternate by 16 columns (SILU_MUL_OF)
    const void* data;
    const void* scale;
    const void* offset;
    const void* table;  // W_INT4: 16 bf16 values, one apart from the next
    int32_t rounds_rows;  // whether rows are rounded to 8 bits before they are multiplied; see q8_activations.h
    int32_t short_numbers;  // of W_INT4: numbers were rounded to it, and not taken out of a file's blocks
    const void* numbers;  // of W_INT4 by columns: see dequant_lut_amx.h; null: there are none
};

// Runs [lo, hi) x columns [left, right) of a buffer; `whole`: all its columns.
struct Area {
    int32_t present;
    int32_t lo;
    int32_t hi;
    int32_t left;
    int32_t right;
    int32_t whole;
};

// What an instruction between ranks moves, and a COPY of a part (members 1, sends[0]): areas by member.
struct Exchange {
    int32_t group;
    int32_t members;
    int32_t position;
    int32_t table;  // 0 all rows, 1 sampled rows (index into Step::starts)
    int32_t in_base;  // the run that the input begins with
    int32_t out_base;  // the run that the output begins with
    int32_t keeps;
    int32_t unused;
    Area keep_from;  // of an all_to_all's own piece, like the next
    Area keep_to;
    const Area* sends;  // [members]
    const Area* takes;  // [members]
    void* sent;  // room for areas that are not whole, one after the other; like the next
    void* taken;
};

// Whether the kernel splits its work into units, which another rank can steal.
inline bool has_units(int op) {
    return op == LINEAR || op == QKV || op == ATTENTION || op == GROUPED || op == PER_HEAD;
}

}  // namespace weft
// clang-format on
