// A counter between threads: a waiting thread spins, then sleeps on a futex.
#pragma once

#include <limits.h>
#include <sched.h>
#include <stdint.h>

#include <atomic>

#include "runtime/futex.h"

namespace weft {

// A counter that one thread raises and others wait for.
class alignas(64) Signal {
public:
    void raise() {
        // The store must be visible before the sleepers are counted: a waiter counts itself, then looks again.
        count_.fetch_add(1, std::memory_order_seq_cst);
        if (sleepers_.load(std::memory_order_seq_cst)) futex(&count_, FUTEX_WAKE_PRIVATE, INT_MAX);
    }

    // Only by the thread that raises it, while no thread waits for more than `count`.
    void skip_to(uint32_t count) { count_.store(count, std::memory_order_seq_cst); }

    // Returns once the counter has reached `wanted` (modulo 2^32). `yields`: call sched_yield between looks.
    void wait(uint32_t wanted, int64_t spin_ns, bool yields = false) {
        if (reached(wanted)) return;
        const int64_t until = monotonic_ns() + spin_ns;
        do {
            for (int i = 0; i < 32; ++i) {
                if (reached(wanted)) return;
                yields ? void(sched_yield()) : relax();
            }
        } while (monotonic_ns() < until);
        sleepers_.fetch_add(1, std::memory_order_seq_cst);
        for (uint32_t seen; int32_t((seen = count_.load(std::memory_order_seq_cst)) - wanted) < 0;)
            futex(&count_, FUTEX_WAIT_PRIVATE, seen);
        sleepers_.fetch_sub(1, std::memory_order_relaxed);
    }

private:
    bool reached(uint32_t wanted) const { return int32_t(count_.load(std::memory_order_acquire) - wanted) >= 0; }

    std::atomic<uint32_t> count_{0};
    std::atomic<uint32_t> sleepers_{0};
};

}  // namespace weft
