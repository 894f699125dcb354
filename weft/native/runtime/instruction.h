// What the parts of a step program agree on: an instruction and where its operands lie, the numbers of one step, and
// packed weights. Mirrored by weft/native/records.py.
//
// A program is a list of instructions over flat buffers that were allocated once. Nothing in it depends on how many
// rows a step has: an instruction names a row register, and `Step::rows` says how many rows that is in this step.
#pragma once

#include <stdint.h>

#include "runtime/stealing/unit_queue.h"

// A function for ctypes. Inline, so that headers may hold it, and kept though nothing here calls it.
#define WEFT_C extern "C" inline __attribute__((used, visibility("default")))

namespace weft {

enum Op : int32_t {
    EMBED = 1,  // out[r] = table row ids[r] - n[LO], zero where it is held elsewhere
    NORM,       // out[r] = rms norm of in0[r], which in1[r] is added to before, where there is one
    LINEAR,     // out[r] (op)= in0[r] @ weight^T + bias, by `epilogue`
    QKV,        // q/k norm, rope and cache write of packed rows [q heads | k heads | v heads]; out = rotated q
    ATTENTION,  // out[r] = attention of q in in0[r] over the cache
    SILU_MUL,   // out[r] = silu(in0[r][:n]) * in0[r][n:]
    ADD,        // out[r] += in0[r]
    ADD_BIAS,   // out[r] += p[BIAS]
    SELECT,     // in0, and in1 where there is one, keep rows step.sampled_rows alone, in place; out = in0
    COPY,       // a rectangle of rows and columns
    ROUTE,      // out[r] = choices by the router's logits in in0[r]; see experts.h
    PLACE,      // out[r] = where the answers to the choices in in0[r] will lie, sorted by slot
    GATHER,     // rows of in0 in the order of p[ORDER]
    GROUPED,    // rows sorted by slot, each slot's times its own weight
    COMBINE,    // out[r] = weighted sum of the answers in in0 at the places in1[r]
    DEAL,       // out[r] = where the answers to the own choices arrive, by the block's choices in in0; see routed.h
    LATENT,     // latents of in1 go to the cache; out = the rotated parts of queries in in0; see latent.h
    PER_HEAD,   // each head's columns of in0 times its own weight
    ROUND,      // out = in0 on the exact model's grid
    ALL_REDUCE,
    ALL_GATHER,
    REDUCE_SCATTER,
    ALL_TO_ALL,
    ROUTED,  // an all_to_all of rows with the sizes that `DEAL` found
};

enum Dtype : int32_t { F32 = 0, BF16 = 1, F64 = 2, I64 = 3 };

inline int item_bytes(int dtype) { return dtype == BF16 ? 2 : dtype == F32 ? 4 : 8; }

// What a linear does with the fp32 sums (fp64 for F64) of a row.
enum Epilogue : int32_t {
    STORE = 0,        // out = sum (+ bias), in out's dtype
    SILU_MUL_OF = 1,  // weight packed with gate and up interleaved: out = silu(gate) * up, half as many columns
    ADD_TO = 2,       // out += sum (+ bias)
};

struct Operand {
    void* base;      // first row; a step's own pointer (ids, ...) is taken from Step instead where `base` is null
    int64_t stride;  // elements from row to row
    int32_t dtype;
    int32_t columns;
};

// Indices into Instruction::n, ::p, ::f. One meaning for every op that uses them.
// clang-format off: a line for each name would be a page
enum N : int32_t { LO = 0, HELD = 1, EPILOGUE = 2, Q_HEADS = 0, KV_HEADS = 1, HEAD_DIM = 2, BLOCK_SIZE = 3, WINDOW = 4,
                   ROPE_DIM = 5, PACKED_CACHE = 6, WORK_CHUNKS = 7, GROUP = 0, TOP_K = 0,
                   SIGMOID = 1, NORMALIZE = 2, GROUPS = 3, TOP_GROUPS = 4, GROUP_BEST = 5, MOST = 1, HERE_LO = 2,
                   HERE_HI = 3, EXPERTS = 4, SLOTS = 0, ADDENDS = 1, TP = 5, EP = 6, PLACE_IN_BLOCK = 7, FIRST_RANK = 8,
                   MEMBERS = 1, POSITION = 2, KIND = 3,
                   IN_STEP = 1, OUT_STEP = 3, TABLE = 9 };
enum P : int32_t { WEIGHT = 0, BIAS = 1, K_CACHE = 0, V_CACHE = 1, KV_OF_HEAD = 2, COS_SIN = 3, WORKSPACE = 3, Q_NORM = 4,
                   K_NORM = 5, NORM_WEIGHT = 0, CORRECTION = 0, REPLICAS = 0, SLOT_OF = 1, TALLY = 2, WEIGHTS = 0, COUNT = 0,
                   ENDS = 3, ORDER = 4, SORTED_WEIGHTS = 5, SENT_ROWS = 6, SENT_ANSWERS = 7, ARRIVED_WEIGHTS = 8, SIZES = 9,
                   EDGES = 10 };
enum F : int32_t { EPS = 0, SCALE = 1 };
// clang-format on

struct Instruction {
    int32_t op;
    int32_t rows;   // row register: number of rows of out (of in0 where there is no out)
    int32_t exact;  // 1: results on the exact model's grid (see weft/ops/reference/exact_ops.py), computed in fp64
    int32_t name;   // for profiles: which module's
    Operand in[2], out;
    int32_t n[12];
    double f[2];
    const void* p[12];
    int64_t cache_stride[2];  // elements from block to block, from head to head, of K_CACHE and of V_CACHE alike
};

constexpr int MAX_ROW_REGISTERS = 64;
constexpr int kMostChoices = 64;  // of a row

// The numbers of one step. All pointers are host memory that lives until the step is done.
struct Step {
    int64_t rows[MAX_ROW_REGISTERS];
    const int64_t* ids;                             // EMBED's where its operand has no base
    const int32_t *positions, *slots, *run_of_row;  // of the attention block's rows
    const int32_t* row_ends;                        // cumulative rows of the runs
    const int32_t* block_tables;                    // [runs, table_width]
    int32_t runs, table_width;
    const int64_t* sampled_rows;  // ascending numbers among the rows that the rank holds of the residual stream
    const int32_t *sampled_positions, *sampled_row_ends;  // of the attention block's sampled rows
    const int64_t* starts[2];  // first row of every rank of the stage (and the end): all rows, sampled rows
};

enum WeightKind : int32_t {
    W_F32 = 0,
    W_BF16 = 1,
    W_F64 = 2,
    W_INT8 = 3,   // per output column: value = q * scale[column]
    W_INT4 = 4,   // groups of 32 along depth: value = table[code] * scale[group][column] (+ offset[group][column]); with
                  // short_numbers both are in one word of 16 bits, which `scale` points to: see weight.h
    W_INT8G = 5,  // groups of 32 along depth: value = q * scale[group][column]
    W_BF12 = 6,   // the numbers of a W_BF16 in 12 bits each; see lossless_bf16.h
};

// A matrix [columns (out), depth (in)] packed in pairs of 16-column panels; see weight.h for the order of elements.
struct Weight {
    int32_t kind, columns, depth, interleaved;  // interleaved: gate and up alternate by 16 columns (SILU_MUL_OF)
    const void *data, *scale, *offset;
    const void* table;      // W_INT4: 16 bf16 values, one apart from the next
    int32_t rounds_rows;    // whether rows are rounded to 8 bits before they are multiplied; see q8_activations.h
    int32_t short_numbers;  // of W_INT4: numbers were rounded to it, and not taken out of a file's blocks
    const void* numbers;    // of W_INT4 by columns: see dequant_lut_amx.h; null: there are none
};

// Runs [lo, hi) x columns [left, right) of a buffer; `whole`: all its columns.
struct Area {
    int32_t present, lo, hi, left, right, whole;
};

// What an instruction between ranks moves, and a COPY of a part (`members` 1, sends[0]): one area for each member of the
// group. `table`: 0 all rows, 1 sampled rows (index into Step::starts); in and out begin with the runs in_base, out_base.
// `sent`, `taken`: room for areas that are not whole, one after the other.
struct Exchange {
    int32_t group, members, position, table, in_base, out_base, keeps, unused;
    Area keep_from, keep_to;  // of an all_to_all's own piece
    const Area *sends, *takes;
    void *sent, *taken;
};
enum ExchangeOf : int32_t { EXCHANGE = 0 };  // index into Instruction::p

// One rank's end of the shared region, and the collectives of library `comm` on it.
struct CommCalls {
    void* handle;
    int (*all_reduce)(void*, uint32_t group, char* x, uint64_t count, int dtype);
    int (*all_gather)(void*, uint32_t group, const char* x, char* const* outs, const uint64_t* bytes, int dtype);
    int (*reduce_scatter)(void*, uint32_t group, const char* const* xs, const uint64_t* bytes, char* out, int dtype);
    int (*all_to_all)(void*, uint32_t group, const char* const* xs, const uint64_t* sent, char* const* outs,
                      const uint64_t* received, int dtype);
    const uint64_t* steal_ns;  // time for which this rank has run stolen units
};

// A thread's part of an instruction. Called by the whole team, a barrier after each.
using Kernel = void (*)(const Instruction&, const Step&, const TeamMember& me);

}  // namespace weft
