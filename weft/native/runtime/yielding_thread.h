// The last worker thread yields its core to the engine's thread at the start of a step (sched_yield, for 2 ms at most) and
// joins at an instruction boundary: a thread that is preempted inside an instruction stalls all others at its barrier.
#pragma once

#include <sched.h>
#include <stddef.h>
#include <stdint.h>

#include <atomic>

#include "runtime/futex.h"

namespace weft {

class YieldingThread {
public:
    // Of the job in hand: it is to be there from the start; may come; wants to come; is in; it is too late.
    enum Standing : uint32_t { kAwaited, kMayCome, kAsks, kIn, kTooLate };

    // By thread 0: of a job that begins after `turn` barriers, before the threads hear of it.
    void announce(uint32_t job, Standing standing, uint32_t turn) {
        job_ = job, turn_ = turn, next_ = 0;
        in_from_.store(0, std::memory_order_relaxed);
        say(standing);
    }
    // By thread 0, before a barrier: if it asks, it is in from behind that barrier on, which ends `turn`, with instruction
    // `next`. Whether it is.
    bool join_late(uint32_t turn, size_t next) {
        if (uint32_t(word_.load(std::memory_order_acquire)) != kAsks) return false;
        turn_ = turn, next_ = next;
        in_from_.store(uint64_t(turn) + 1, std::memory_order_relaxed);
        say(kIn);
        return true;
    }
    // By thread 0: nobody comes to this job any more.
    void close() { say(kTooLate); }

    // By another member behind the barrier that ends `turn`: whether it is in from here on.
    bool is_in(uint32_t turn) const {
        const uint64_t from = in_from_.load(std::memory_order_relaxed);
        return from && int32_t(turn - uint32_t(from - 1)) >= 0;
    }

    // By the latecomer: true once it is in the job in hand, false when it is too late; `job` is which one that is.
    bool comes(uint32_t& job) {
        uint64_t word = word_.load(std::memory_order_acquire);
        job = uint32_t(word >> 32);
        if (uint32_t(word) == kMayCome) word = ask(word);
        return uint32_t(word >> 32) == job && (uint32_t(word) == kAwaited || uint32_t(word) == kIn);
    }
    // Where it begins; while it is in.
    uint32_t turn() const { return turn_; }
    size_t next() const { return next_; }

private:
    static constexpr int64_t kTakenNs = 8000;        // a look that takes longer: somebody had the core
    static constexpr int64_t kQuietNs = 25000;       // nobody has wanted it for so long: nobody wants it
    static constexpr int64_t kPatienceNs = 2000000;  // who computes on it for longer has to share it

    // What stands once `word` no longer says that it may come or asks.
    uint64_t ask(uint64_t word) {
        const int64_t begun = monotonic_ns();
        for (int64_t now = begun, quiet = begun; now - quiet < kQuietNs && now - begun < kPatienceNs;) {
            if (word_.load(std::memory_order_relaxed) != word) return word_.load(std::memory_order_acquire);
            sched_yield();
            const int64_t before = now;
            now = monotonic_ns();
            if (now - before > kTakenNs) quiet = now;
        }
        const uint64_t asks = (word & ~uint64_t(UINT32_MAX)) | kAsks;
        if (!word_.compare_exchange_strong(word, asks, std::memory_order_acq_rel)) return word;
        while ((word = word_.load(std::memory_order_acquire)) == asks) relax();
        return word;
    }

    void say(Standing standing) { word_.store(uint64_t(job_) << 32 | standing, std::memory_order_release); }

    std::atomic<uint64_t> word_{kTooLate};  // job, standing
    std::atomic<uint64_t> in_from_{0};      // turn + 1
    uint32_t job_ = 0, turn_ = 0;
    size_t next_ = 0;
};

}  // namespace weft
