// Publishes an instruction to other ranks, which steal units of it while they wait for this rank in a collective.
#pragma once

#include "runtime/stealing/steal_port.h"
#include "runtime/instruction.h"

namespace weft {

// One team's publisher. Units that no thread has begun are never waited for: `close` is called when no unit is left, and
// returns when the stolen ones are done.
class InstructionPublisher {
public:
    InstructionPublisher(const TeamPort& to, int threads, UnitQueue* queues) : to_(to) {
        to_.port->queues = queues, to_.port->threads = threads;
    }
    ~InstructionPublisher() { to_.port->open.store(0, std::memory_order_seq_cst); }
    InstructionPublisher(const InstructionPublisher&) = delete;
    InstructionPublisher& operator=(const InstructionPublisher&) = delete;

    // From here on others may take units of the instruction, as it stands after `turn` barriers of the team.
    void open(const Instruction& instruction, const Step& step, uint32_t turn) {
        to_.port->instruction = &instruction, to_.port->step = &step;
        to_.port->open.store(uint64_t(turn) + 1, std::memory_order_seq_cst);
    }

    // 0, or why units that another rank has taken will never be done.
    int close() {
        to_.port->open.store(0, std::memory_order_seq_cst);
        for (uint64_t rank = 0; rank < to_.ranks; ++rank)
            if (to_.thieves[rank].inside.load(std::memory_order_seq_cst)) return to_.left(to_.comm);
        return 0;
    }

private:
    const TeamPort to_;
};

// See `Steal`. The owner waits for every thief that is inside, so a published instruction stays valid until this returns.
inline bool steal(Kernel (*kernel)(int op), StealPort& port, ThiefSlot& thief, uint64_t& seen) {
    uint64_t open = port.open.load(std::memory_order_relaxed);
    if (!open || open == seen) return false;
    thief.inside.store(1, std::memory_order_seq_cst);
    open = port.open.load(std::memory_order_seq_cst);
    if (open) {
        const uint32_t turn = uint32_t(open - 1);
        kernel(port.instruction->op)(*port.instruction, *port.step, TeamMember::thief(port.threads, port.queues, &turn));
        seen = open;
    }
    thief.inside.store(0, std::memory_order_release);
    return open != 0;
}

}  // namespace weft
