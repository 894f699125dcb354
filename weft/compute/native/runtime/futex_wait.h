// Waits without Python for a counter in memory that others raise: steps leave nothing of the interpreter in the CPU caches,
// so every look from Python would cost a core much time.
#pragma once

#include <stdint.h>
#include <time.h>

#include "runtime/futex.h"
#include "runtime/instruction.h"

// Whether `number` is above `than`, now or within `limit_ns`; false too where `ended` is not 0 any more. It is looked at
// every `slice_ns`.
WEFT_C int weft_await_above(const int64_t* number, int64_t than, const int32_t* ended, int64_t slice_ns, int64_t limit_ns) {
    const timespec slice{0, long(slice_ns)};
    const int64_t until = weft::monotonic_ns() + limit_ns;
    for (;;) {
        if (__atomic_load_n(ended, __ATOMIC_RELAXED)) return 0;
        if (__atomic_load_n(number, __ATOMIC_RELAXED) > than) return 1;
        if (weft::monotonic_ns() >= until) return 0;
        nanosleep(&slice, nullptr);
    }
}
