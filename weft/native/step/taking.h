// Who does which units of an instruction. Each thread has units of its own, in a row, and takes them from the front, half
// of what is left at a time; when it has none left it takes what others have not begun, from the back. Cores are not
// equally fast: some share theirs with somebody, or are of a slower kind, or were just lent to another process.
// A result does not depend on who computes it. Knows no kernel and no pool.
#pragma once

#include <stdint.h>

#include <algorithm>
#include <atomic>

namespace weft {

// What was taken of one thread's units, and between which barriers: units are counted anew after each.
struct alignas(128) Taken {  // 128: the neighbouring line is often fetched with a line
  std::atomic<uint64_t> state{0};
};

// One of the threads that do an instruction together.
class Taker {
 public:
  const int thread, threads;

  // `all`: one for each thread, or null where each does its own units only; `turn`: barriers that it has passed.
  Taker(int thread, int threads, Taken *all = nullptr, uint32_t turn = 0)
      : thread(thread), threads(threads), all_(threads > 1 ? all : nullptr), turn_(turn & kTurns) {}

  // run(owner, from, to) for ranges of the `units(owner)` that each thread has, until all are begun. Once between two
  // barriers, by every thread, each with the same `units`.
  template <class Units, class Run> void share(Units &&units, Run &&run) const {
    const int64_t own = units(thread);
    if (!all_ || own >= kMost) {
      if (own > 0) run(thread, int64_t(0), own);
      return;
    }
    for (int i = 0; i < threads; ++i) {
      const int owner = thread + i < threads ? thread + i : thread + i - threads;
      const int64_t count = i ? units(owner) : own;
      for (int64_t from, to; count < kMost && take(owner, count, from, to);) run(owner, from, to);
    }
  }

  // [from, to) of `owner`'s `count` units, half of those that are left; false where none is.
  bool take(int owner, int64_t count, int64_t &from, int64_t &to) const {
    std::atomic<uint64_t> &state = all_[owner].state;
    uint64_t seen = state.load(std::memory_order_relaxed), next;
    do {
      const bool begun = seen >> (2 * kBits) == turn_;
      const int64_t front = begun ? int64_t(seen >> kBits & (kMost - 1)) : 0, back = begun ? int64_t(seen & (kMost - 1)) : 0;
      const int64_t left = count - front - back, size = (left + 1) / 2;
      const bool own = owner == thread;
      if (left <= 0 && (begun || !own)) return false;  // an owner without units says that the turn is this one
      from = own ? front : count - back - size, to = from + size;
      next = uint64_t(turn_) << (2 * kBits) | uint64_t(own ? front + size : front) << kBits | uint64_t(own ? back : back + size);
    } while (!state.compare_exchange_weak(seen, next, std::memory_order_relaxed));
    return from < to;
  }

 private:
  static constexpr int kBits = 20;
  static constexpr int64_t kMost = int64_t(1) << kBits;  // units of a thread, above which nobody else takes them
  static constexpr uint32_t kTurns = (1u << (64 - 2 * kBits)) - 1;

  Taken *const all_;
  const uint32_t turn_;
};

}  // namespace weft
