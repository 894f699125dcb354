// Cross-rank work stealing: a rank that is blocked in a collective runs units of the instruction that another rank has
// published. The port is in the region that ranks share; what an instruction points to is in arenas, which every rank maps
// at the same addresses (weft/comm/shm/arena.py).
#pragma once

#include <stdint.h>

#include <atomic>

#include "runtime/records.h"

namespace weft {

struct Instruction;
struct Step;
struct UnitQueue;

// What a rank has open for others; its fields are those of `open` as it stands.
struct alignas(128) StealPort {  // 128: the neighbouring line is often fetched with a line
    std::atomic<uint64_t> open;  // after how many barriers of the team the instruction stands, + 1; 0: nothing is open
    const Instruction* instruction;
    const Step* step;
    UnitQueue* queues;  // one for each thread of the team
    int32_t threads;
};

// Whether another rank is at work on what this one has open. One for each rank of the region.
struct alignas(128) ThiefSlot {
    std::atomic<uint32_t> inside;
};

static_assert(sizeof(StealPort) == 128 && sizeof(ThiefSlot) == 128, "as in weft/comm/shm/region.py");

// Runs units of what is open, where it is not what `seen` says this rank has run already; whether it ran some.
using Steal = int (*)(StealPort* port, ThiefSlot* thief, uint64_t* seen);

}  // namespace weft
