// Guests: threads of this process on cores that other ranks lend while they wait for this rank in a collective (`lend` in
// comm_region.h). A guest steals units of the instruction in hand, and gives the core back when there are no more before
// its rank comes to a collective itself. Knows no kernel and no collective.
#pragma once

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>

#include <atomic>
#include <thread>
#include <vector>

#include "../lending.h"
#include "../waiting.h"
#include "instruction.h"

namespace weft {

class Guests {
public:
    // `computing`: this rank's; `threads`, `queues`: of the team that guests steal from. Throws std::system_error where a
    // thread cannot be made.
    Guests(const Lender* lenders, int count, Computing* computing, int threads, UnitQueue* queues)
        : lenders_(lenders, lenders + count), computing_(computing), threads_(threads), queues_(queues), places_(count) {
        try {
            for (int i = 0; i < count; ++i) guests_.emplace_back(&Guests::serve, this, i);
        } catch (...) {
            end();
            throw;
        }
    }
    ~Guests() { end(); }
    Guests(const Guests&) = delete;
    Guests& operator=(const Guests&) = delete;

    // From here on units will be dealt before the next collective: others may lend their cores.
    void begin() {
        at_ += 2;
        if (at_ == IDLE_GUEST) at_ += 2;  // after 2^31 collectives
        computing_->store(at_, std::memory_order_release);
    }

    // From here on guests may take units of the instruction, as it stands after `turn` barriers of the team. `last`: there
    // are no more before the next collective.
    void open(Kernel kernel, const Instruction& instruction, const Step& step, uint32_t turn, bool last) {
        kernel_ = kernel, instruction_ = &instruction, step_ = &step, last_ = last;
        open_.store(uint64_t(turn) + 1, std::memory_order_seq_cst);
    }

    // Returns once no guest is at work; called when no unit is left that nobody has begun.
    void close() {
        open_.store(0, std::memory_order_seq_cst);
        for (Place& place : places_)
            while (place.inside.load(std::memory_order_seq_cst)) relax();
        if (last_) end_of(at_);
    }

private:
    struct alignas(128) Place {
        std::atomic<uint32_t> inside{0};
    };

    void serve(int number) {
        const Lender& lender = lenders_[number];
        uint32_t core = 0;
        say(lender, IDLE_GUEST);
        while (!ending_.load(std::memory_order_seq_cst)) {
            const uint32_t called = lender.guest->load(std::memory_order_acquire);
            if (called <= IDLE_GUEST) {
                futex(lender.guest, FUTEX_WAIT, called);
                continue;
            }
            const uint32_t now = lender.core->load(std::memory_order_relaxed);
            if (now != core && keeps_to(now - 1)) core = now;
            if (now == core) help(places_[number], called);
            say(lender, IDLE_GUEST);
        }
        say(lender, NO_GUEST);
    }

    static void say(const Lender& lender, uint32_t standing) {
        lender.guest->store(standing, std::memory_order_seq_cst);
        futex(lender.guest, FUTEX_WAKE, INT_MAX);
    }

    // What is open, as long as the rank computes what it was called for.
    void help(Place& place, uint32_t at) {
        for (uint64_t done = 0;
             computing_->load(std::memory_order_acquire) == at && !ending_.load(std::memory_order_acquire);) {
            if (const uint64_t seen = open_.load(std::memory_order_relaxed); !seen || seen == done) {
                relax();
                continue;
            }
            place.inside.store(1, std::memory_order_seq_cst);
            if (const uint64_t turn = open_.load(std::memory_order_seq_cst)) {
                const uint32_t of = uint32_t(turn - 1);
                kernel_(*instruction_, *step_, TeamMember::guest(threads_, queues_, &of));
                done = turn;
                if (last_) end_of(at);
            }
            place.inside.store(0, std::memory_order_release);
        }
    }

    void end_of(uint32_t at) { computing_->compare_exchange_strong(at, at + 1); }

    static bool keeps_to(uint32_t core) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(core, &set);
        return !pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
    }

    // Who sleeps is woken, also where a lender that called did not come so far; who is at work looks before it sleeps.
    void end() {
        ending_.store(true, std::memory_order_seq_cst);
        for (size_t i = 0; i < guests_.size(); ++i) {
            uint32_t idle = IDLE_GUEST;
            lenders_[i].guest->compare_exchange_strong(idle, NO_GUEST);
            futex(lenders_[i].guest, FUTEX_WAKE, INT_MAX);
        }
        for (auto& guest : guests_) guest.join();
    }

    const std::vector<Lender> lenders_;
    Computing* const computing_;
    const int threads_;
    UnitQueue* const queues_;
    Kernel kernel_ = nullptr;
    const Instruction* instruction_ = nullptr;
    const Step* step_ = nullptr;
    bool last_ = false;
    uint32_t at_ = 1;                // odd
    std::atomic<uint64_t> open_{0};  // turn + 1
    std::atomic<bool> ending_{false};
    std::vector<Place> places_;
    std::vector<std::thread> guests_;
};

}  // namespace weft
