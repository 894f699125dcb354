// An instruction that is open to other ranks: while they wait for this rank in a collective they steal units of it
// (`help` in comm_region.h). Knows no kernel and no collective.
#pragma once

#include "runtime/stealing/steal_port.h"
#include "runtime/instruction.h"

namespace weft {

// Of a team. Nobody waits for what nobody has begun: `close` is called when no unit is left, and returns when those that
// others took are done.
class Offers {
public:
    Offers(const Offering& to, int threads, UnitQueue* queues) : to_(to) {
        to_.offer->queues = queues, to_.offer->threads = threads;
    }
    ~Offers() { to_.offer->open.store(0, std::memory_order_seq_cst); }
    Offers(const Offers&) = delete;
    Offers& operator=(const Offers&) = delete;

    // From here on others may take units of the instruction, as it stands after `turn` barriers of the team.
    void open(const Instruction& instruction, const Step& step, uint32_t turn) {
        to_.offer->instruction = &instruction, to_.offer->step = &step;
        to_.offer->open.store(uint64_t(turn) + 1, std::memory_order_seq_cst);
    }

    // 0, or why units that another rank has taken will never be done.
    int close() {
        to_.offer->open.store(0, std::memory_order_seq_cst);
        for (uint64_t rank = 0; rank < to_.ranks; ++rank)
            if (to_.visits[rank].inside.load(std::memory_order_seq_cst)) return to_.left(to_.comm);
        return 0;
    }

private:
    const Offering to_;
};

// See `Help`. Who has something open waits for whoever is inside, so what is open is still there then.
inline bool help(Kernel (*kernel)(int op), Offer& offer, Visit& visit, uint64_t& seen) {
    uint64_t open = offer.open.load(std::memory_order_relaxed);
    if (!open || open == seen) return false;
    visit.inside.store(1, std::memory_order_seq_cst);
    open = offer.open.load(std::memory_order_seq_cst);
    if (open) {
        const uint32_t turn = uint32_t(open - 1);
        kernel(offer.instruction->op)(*offer.instruction, *offer.step, TeamMember::guest(offer.threads, offer.queues, &turn));
        seen = open;
    }
    visit.inside.store(0, std::memory_order_release);
    return open != 0;
}

}  // namespace weft
