// What the parts of a step program agree on: an instruction and where its operands lie, the numbers of one step, and
// packed weights. The records themselves are in records.h.
//
// A program is a list of instructions over flat buffers that were allocated once. Nothing in it depends on how many
// rows a step has: an instruction names a row register, and `Step::rows` says how many rows that is in this step.
#pragma once

#include <stdint.h>

#include "runtime/records.h"
#include "runtime/stealing/unit_queue.h"

// A function for ctypes. Inline, so that headers may hold it, and kept though nothing here calls it.
#define WEFT_C extern "C" inline __attribute__((used, visibility("default")))

namespace weft {

enum Dtype : int32_t { F32 = 0, BF16 = 1, F64 = 2, I64 = 3 };

inline int item_bytes(int dtype) { return dtype == BF16 ? 2 : dtype == F32 ? 4 : 8; }

// What a linear does with the fp32 sums (fp64 for F64) of a row.
enum Epilogue : int32_t {
    STORE = 0,        // out = sum (+ bias), in out's dtype
    SILU_MUL_OF = 1,  // weight packed with gate and up interleaved: out = silu(gate) * up, half as many columns
    ADD_TO = 2,       // out += sum (+ bias)
};

constexpr int kMostChoices = 64;  // of a row

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
