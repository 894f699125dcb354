// The operations, their operands' indices, and the records that Python fills. Do not edit: written by
// `python -m weft.compute.ops.generate` from weft/compute/ops/operations/ and weft/compute/native/records.py.
#pragma once

#include <stdint.h>

// clang-format off
namespace weft {

constexpr int MAX_ROW_REGISTERS = 64;

enum Op : int32_t {
    EMBED = 1,  // out[r] = table row ids[r] - n[LO], zero where it is held elsewhere
    NORM = 2,  // out[r] = rms norm of in0[r], which in1[r] is added to before, where there is one
    LINEAR = 3,  // out[r] (op)= in0[r] @ weight^T + bias, by `epilogue`
    QKV = 4,  // q/k norm, rope and cache write of packed rows [q heads | k heads | v heads]; out = rotated, scaled q
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
    PARTIAL = 20,  // out[r] = partial output of q in in0[r] over the keys that this rank has
    MERGE = 21,  // out[r] = partial outputs of all owners, which lie one owner after the other in in0, added up and divided
    ALL_REDUCE = 22,  // sum of rows over ranks
    ALL_GATHER = 23,  // rows of all ranks on each
    REDUCE_SCATTER = 24,  // sum of rows over ranks, each keeps its own
    ALL_TO_ALL = 25,  // exchange of rows between ranks
    ROUTED = 26,  // an all_to_all of rows with the sizes that DISPATCH found
    SEND = 27,  // all rows of in0 to the other rank of group n[GROUP]; out = in0
    RECV = 28,  // out = the oldest rows that the other rank of group n[GROUP] sent
    PARTIALS = 29,  // an all_to_all in which the columns of each member lie together, one member after the other
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
    SECTIONS = 8,
    TABLE = 9,
    OWNER = 10,
    OWNERS = 11,
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
    Q_SCALE = 6,
    WORKSPACE = 3,
    HEAD_STARTS = 4,
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

// Of an operand.
enum Dtype : int32_t {
    F32 = 0,
    BF16 = 1,
    F64 = 2,
    I64 = 3,
};

// How the numbers of a packed weight are written.
enum WeightKind : int32_t {
    W_F32 = 0,
    W_BF16 = 1,
    W_F64 = 2,
    W_INT8 = 3,  // for each output column: value = q * scale[column]
    W_INT4 = 4,  // groups of 32 along depth: value = table[code] * scale[group][column] (+ offset[group][column])
    W_INT8G = 5,  // groups of 32 along depth: value = q * scale[group][column]
    W_BF16_12BIT = 6,  // the numbers of a W_BF16, all of them, in 12 bits each and a few apart; see lossless_bf16.h
};

// What a linear does with the fp32 sums (fp64 for F64) of a row.
enum Epilogue : int32_t {
    STORE = 0,  // out = sum (+ bias), in out's dtype
    SILU_MUL_OF = 1,  // weight packed with gate and up interleaved: out = silu(gate) * up, half as many columns
    ADD_TO = 2,  // out += sum (+ bias)
};

// Of which rows a decode step chose the token.
enum Chose : int32_t {
    CHOSE_NONE = 0,  // of none: they want more, or are not finite
    CHOSE_FROM_LOGITS = 1,  // of all, from logits
    CHOSE_LARGEST = 2,  // of all, before logits were brought together: those of the program are an earlier step's
};

// Of other headers.
struct SamplingTable;
struct Status;

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
    int32_t exact;  // 1: results on the exact model's grid (compute/ops/reference/exact_ops.py), computed in fp64
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
    const int32_t* row_ends;  // cumulative rows of the runs that attention takes: those of the block, or as group_positions
    const int32_t* block_tables;  // [runs, table_width]
    int32_t runs;
    int32_t table_width;
    const int64_t* sampled_rows;  // ascending numbers among the rows that the rank holds of the residual stream
    const int32_t* sampled_positions;  // of the sampled rows that attention takes, like the next
    const int32_t* sampled_row_ends;
    const int32_t* group_positions;  // of PARTIAL: of all rows of the attention-dp group, one block after the other
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
    int32_t int8_activations;  // whether rows are rounded to int8 before they are multiplied; see q8_activations.h
    int32_t scale16;  // of W_INT4: scale and offset are in one word of 16 bits in `scale`; see weight.h
    const void* lut;  // of W_INT4 by columns: see dequant_lut_amx.h; null: there are none
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
    int32_t in_base;  // the run that the input begins with; `in_end`: one past its last
    int32_t out_base;  // the run that the output begins with
    int32_t keeps;
    int32_t in_end;
    Area keep_from;  // of an all_to_all's own piece, like the next
    Area keep_to;
    const Area* sends;  // [members]
    const Area* takes;  // [members]
    void* sent;  // room for areas that are not whole, one after the other; like the next
    void* taken;
};

// One rank's end of the shared region, and the collectives of library `comm` on it.
struct CommCalls {
    void* handle;
    int (*all_reduce)(void*, uint32_t group, char* x, uint64_t count, int dtype);
    int (*all_gather)(void*, uint32_t group, const char* x, char* const* outs, const uint64_t* bytes, int dtype);
    int (*reduce_scatter)(void*, uint32_t group, const char* const* xs, const uint64_t* bytes, char* out, int dtype);
    int (*all_to_all)(void*, uint32_t group, const char* const* xs, const uint64_t* sent, char* const* outs, const uint64_t* received, int dtype);
    int (*send)(void*, uint32_t group, const char* x, uint64_t bytes, int dtype);
    int (*recv)(void*, uint32_t group, char* x, uint64_t bytes, int dtype);
};

// A step in which every row of an attention block is a stream's; see decode_step.h.
struct Decode {
    const int64_t* columns;  // [3, rows]: slot, position, tokens that the request had generated
    int64_t rows;
    int64_t slots;
    int64_t block_size;  // positions of a block that this rank keeps: it has every `owners`-th, of which it is `owner`
    int64_t owner;
    int64_t owners;
    int64_t table_width;
    int32_t* tables;  // [slots, table_width]: blocks of each slot
    int64_t* highest;  // of all blocks that ever came
    int64_t* last_ids;  // [slots]: the token that each slot was given last
    int64_t* ids;  // where a Step of these rows finds its inputs, as the next three; room for a row of each slot
    int32_t* positions;
    int32_t* places;
    int32_t* block_tables;
    const SamplingTable* sampling;  // null: nothing is chosen here
    const int64_t* chosen_from;  // [slots]: from which output position on a slot's token can be chosen here
    const float* logits;  // [rows, vocabulary]
    int64_t vocabulary;
    int64_t own_first;  // the first of the `own_count` rows that this rank samples
    int64_t own_count;
    double* values;  // [own_count, 2]: of these, id and whether the logits were finite; room for every slot
    int64_t* chosen;  // [rows]: results
    int32_t group;  // ranks that choose tokens of these rows
    int32_t members;  // how many; 0: this rank chooses all
    int32_t position;
    int32_t chose;  // result, a Chose
    const int64_t* rows_of;  // [members]
    double* all_values;  // [members]: room for those of every slot
    const float* local_logits;  // [rows, local_columns]: this rank's columns of all rows' logits; null: not known here
    int64_t local_columns;
    int64_t first_column;
    int32_t grammars;  // how many slots have one
    int32_t unused;
    const uint8_t* has_grammar;  // [slots]
    const uint32_t** masks;  // room for one of every slot
    const uint32_t* (*mask)(int64_t slot);  // bits of the ids that may come next in a slot that has a grammar; null: Python must choose
    void (*feed)(int64_t slot, int64_t token, bool own);  // a slot that has a grammar was given a token; own: this rank sampled it
};

// What steps of streams have in common that have as many rows as each other on every rank; see decode_loop.h.
struct DecodeShape {
    Step step;  // their counts, and where a Decode puts their inputs
    const int64_t* of_ranks;  // [ranks]: rows of each rank of the stage
    int64_t rows;  // as of Decode, like the next three
    int64_t own_first;
    int64_t own_count;
    const int64_t* rows_of;
    int64_t counted;  // rows that this rank counts as its own
};

// Sampled ids on their way from the last pipeline stage to the first; see stage_ids.h.
struct StageIds {
    int32_t takes;  // whether this rank's stage receives them
    int32_t gives;  // whether it sends them
    int32_t group;  // the pair's number
    int32_t failed;  // result: whether an exchange of ids failed
    int32_t low;  // rank of the world, like the next: the pair
    int32_t high;
    int64_t* queue;  // [room, width], a ring: of a step whose ids have not arrived its number, how many rows it samples, and their slots (-1: a row that gives no token)
    int64_t room;
    int64_t width;
    int64_t first;  // counts steps whose ids came
    int64_t end;  // counts steps that were sent on
    double* values;  // [width - 2, 2]: an id and 1
};

// What a rank needs to run decode steps one after the other without Python; see decode_loop.h.
struct Following {
    int32_t fd;  // a stream of frames, each after its length
    int32_t ranks;  // of the stage
    int32_t reports;  // whether it answers
    int32_t samples;  // whether it is of the last pipeline stage
    DecodeShape* shapes;  // [count]: those that steps may have
    int32_t count;
    int32_t current;  // result: the shape of the step that was begun last; -1: none was
    StageIds* ids;
    Status* status;
    uint8_t* frame;  // room for a frame and its length; of longer ones no step here is made
    int64_t frame_room;
    int64_t* columns;  // room for [3, slots]: of the step that was begun last
    uint8_t* answer;  // room for all ids and kAnswerRoom
    int64_t steps;  // result: how many were run
    int64_t counted;  // result: rows of them that this rank counts as its own
    int64_t busy_ns;  // result: nanoseconds inside them
};

// Bytes of each record, in the order above: Python compares them with its own.
constexpr int RECORD_BYTES[] = {
    sizeof(Operand),
    sizeof(Instruction),
    sizeof(Step),
    sizeof(Weight),
    sizeof(Area),
    sizeof(Exchange),
    sizeof(CommCalls),
    sizeof(Decode),
    sizeof(DecodeShape),
    sizeof(StageIds),
    sizeof(Following),
};

}  // namespace weft
// clang-format on
