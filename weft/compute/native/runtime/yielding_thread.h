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
    // State of the current job: expected from the start; may join; asks to join; has joined; too late to join.
    enum Standing : uint32_t { kAwaited, kMayCome, kAsks, kIn, kTooLate };

    // By thread 0, before the job is announced to the threads: state of a job that begins after `turn` barriers.
    void announce(uint32_t job, Standing standing, uint32_t turn) {
        job_ = job, turn_ = turn, next_ = 0;
        in_from_.store(0, std::memory_order_relaxed);
        say(standing);
    }
    // By thread 0, before the barrier that ends `turn`: lets the thread join after it, at instruction `next`, if it asks.
    // Returns whether it joins.
    bool join_late(uint32_t turn, size_t next) {
        if (uint32_t(word_.load(std::memory_order_acquire)) != kAsks) return false;
        turn_ = turn, next_ = next;
        in_from_.store(uint64_t(turn) + 1, std::memory_order_relaxed);
        say(kIn);
        return true;
    }
    // By thread 0: the thread can no longer join this job.
    void close() { say(kTooLate); }

    // By another member after the barrier that ends `turn`: whether the thread has joined.
    bool is_in(uint32_t turn) const {
        const uint64_t from = in_from_.load(std::memory_order_relaxed);
        return from && int32_t(turn - uint32_t(from - 1)) >= 0;
    }

    // By the yielding thread: true once it has joined the current job, false when it is too late; `job`: that job's number.
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
    static constexpr int64_t kTakenNs = 8000;        // a longer sched_yield: another thread had the core
    static constexpr int64_t kQuietNs = 25000;       // after so long without such a yield the core counts as free
    static constexpr int64_t kPatienceNs = 2000000;  // a thread that uses the core for longer has to share it

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
