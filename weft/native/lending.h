// How a rank that waits lends its core: words in the region that ranks share. A guest is a thread of a rank that computes,
// on the core of a rank that waits for it.
#pragma once

#include <stdint.h>

#include <atomic>

namespace weft {

// How a guest stands; anything else: called by the lender, for what its rank computes.
enum Standing : uint32_t { NO_GUEST = 0, IDLE_GUEST = 1 };

// A rank that may lend its core, as another one sees it: the core's number + 1 (0: it lends none), and how the other one's
// guest there stands.
struct Lender {
    std::atomic<uint32_t>* core;
    std::atomic<uint32_t>* guest;
};

// Odd while a rank computes between two collectives, another number above IDLE_GUEST each time.
using Computing = std::atomic<uint32_t>;

}  // namespace weft
