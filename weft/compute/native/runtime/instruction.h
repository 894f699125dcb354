// What the parts of a step program agree on: an instruction and where its operands lie, the numbers of one step, and
// packed weights. The records themselves are in records.h.
//
// A program is a list of instructions over flat buffers that were allocated once. Nothing in it depends on how many
// rows a step has: an instruction names a row register, and `Step::rows` says how many rows that is in this step.
#pragma once

#include <stdint.h>

#include "runtime/records.h"
#include "runtime/unit_queue.h"

// A function for ctypes. Inline, so that headers may hold it, and kept though nothing here calls it.
#define WEFT_C extern "C" inline __attribute__((used, visibility("default")))

namespace weft {

inline int item_bytes(int dtype) { return dtype == BF16 ? 2 : dtype == F32 ? 4 : 8; }

constexpr int kMostChoices = 64;  // of a row
constexpr int MAX_MEMBERS = 256;  // of a group

// A thread's part of an instruction. Called by the whole team, a barrier after each.
using Kernel = void (*)(const Instruction&, const Step&, const TeamMember& me);

}  // namespace weft
