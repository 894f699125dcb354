// Work stealing. The units of an instruction are divided among the threads of a team, each a queue of its own. A thread
// runs its own units from the front, half of what is left at a time; then it steals units of others from the back, a
// quarter at a time. Cores are not equally fast: some are shared with another process or are of a slower kind. A result
// does not depend on the thread that computes it.
#pragma once

#include <stdint.h>

#include <algorithm>
#include <atomic>

namespace weft {

// Thread `owner`'s even share of `count` items among `threads`: [begin, end).
struct EvenShare {
    int64_t begin, end;
    EvenShare(int64_t count, int owner, int threads) : begin(count * owner / threads), end(count * (owner + 1) / threads) {}
    int64_t size() const { return end - begin; }
};

// How far a thread's units have been taken from the front and from the back, since which of the team's barriers.
struct alignas(128) UnitQueue {  // 128: the neighbouring line is often fetched with a line
    std::atomic<uint64_t> state{0};
};

// One thread of a team that runs a function together.
class TeamMember {
public:
    int thread, threads;

    // `queues`: one for each thread, or null without work stealing; `turn`: number of barriers that this thread has passed.
    TeamMember(int thread, int threads, UnitQueue* queues = nullptr, const uint32_t* turn = nullptr)
        : thread(thread), threads(threads), queues_(queues), turn_(turn) {}

    // This thread's share without work stealing.
    EvenShare share(int64_t count) const { return {count, thread, threads}; }

    // run(owner, from, to) for ranges of the units(owner) that each thread has, until all are begun; `units` is asked once
    // before the first range of an owner. At most once between two barriers, by every thread, each with the same `units`.
    template <class Units, class Run> void run_units(Units&& units, Run&& run) const {
        const int64_t own = units(thread);
        if (!queues_ || own >= kMost) {
            if (own > 0) run(thread, int64_t(0), own);
            return;
        }
        for (int i = 0; i < threads; ++i) {
            const int owner = thread + i < threads ? thread + i : thread + i - threads;
            const int64_t count = owner == thread ? own : units(owner);
            for (int64_t from, to; count < kMost && take(owner, count, from, to);) run(owner, from, to);
        }
    }

    // run(from, to) for ranges of `count` units, split evenly.
    template <class Run> void run_evenly(int64_t count, Run&& run) const {
        run_units([&](int owner) { return EvenShare(count, owner, threads).size(); },
                  [&](int owner, int64_t from, int64_t to) {
                      const int64_t begin = EvenShare(count, owner, threads).begin;
                      run(begin + from, begin + to);
                  });
    }

private:
    static constexpr int kBits = 20;
    static constexpr int64_t kMost = int64_t(1) << kBits;  // a thread with so many units runs them without stealing
    static constexpr uint32_t kTurns = (1u << (64 - 2 * kBits)) - 1;

    // Takes [from, to) of `owner`'s `count` units: half of the rest for the owner, a quarter for others, because the last
    // units may be the longest and the team waits for all of them. False where none is left.
    bool take(int owner, int64_t count, int64_t& from, int64_t& to) const {
        std::atomic<uint64_t>& state = queues_[owner].state;
        const bool own = owner == thread;
        const uint32_t turn = *turn_ & kTurns;
        uint64_t seen = state.load(std::memory_order_relaxed), next;
        do {
            const bool begun = seen >> (2 * kBits) == turn;
            const int64_t front = begun ? int64_t(seen >> kBits & (kMost - 1)) : 0,
                          back = begun ? int64_t(seen & (kMost - 1)) : 0;
            const int64_t left = count - front - back, size = own ? (left + 1) / 2 : (left + 3) / 4;
            if (left <= 0 && (begun || !own)) return false;  // an owner without units says that the turn is this one
            from = own ? front : count - back - size, to = from + size;
            next = uint64_t(turn) << (2 * kBits) | uint64_t(own ? to : front) << kBits | uint64_t(own ? back : back + size);
        } while (!state.compare_exchange_weak(seen, next, std::memory_order_relaxed));
        return from < to;
    }

    UnitQueue* queues_;
    const uint32_t* turn_;
};

}  // namespace weft
