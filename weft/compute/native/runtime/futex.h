// What waiting takes: a pause between two looks, the time, and sleeping on a word.
#pragma once

#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

namespace weft {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

inline int64_t monotonic_ns() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return int64_t(now.tv_sec) * 1000000000 + now.tv_nsec;
}

// FUTEX_WAIT while the word holds `value`, at most for `limit` (null: for ever), or FUTEX_WAKE of `value` sleepers; the
// _PRIVATE ones where no other process waits.
inline void futex(void* word, int op, uint32_t value, const timespec* limit = nullptr) {
    syscall(SYS_futex, word, op, value, limit, nullptr, 0);
}

}  // namespace weft
