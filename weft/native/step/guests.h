// Guests: threads of this process on cores that other ranks lend while they wait for this rank in a collective (see
// weft/native/comm_region.h). A guest steals units of the instruction in hand, and gives the core back once its rank has
// come to a collective itself. Knows no kernel and no collective.
#pragma once

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "instruction.h"
#include "spin.h"

namespace weft {

// A rank that may lend its core: the core's number + 1, and how this rank's guest there stands.
struct Lender {
  const std::atomic<uint32_t> *core;
  std::atomic<uint32_t> *guest;
};

class Guests {
 public:
  // `computing`: what lenders call for, odd where they may; `threads`, `queues`: of the team that guests steal from. Throws
  // std::system_error where a thread cannot be made.
  Guests(const Lender *lenders, int count, std::atomic<uint32_t> *computing, int threads, UnitQueue *queues)
      : lenders_(lenders, lenders + count), computing_(computing), threads_(threads), queues_(queues), places_(count) {
    try {
      for (int i = 0; i < count; ++i) guests_.emplace_back(&Guests::serve, this, i);
    } catch (...) {
      end();
      throw;
    }
  }
  ~Guests() { end(); }
  Guests(const Guests &) = delete;
  Guests &operator=(const Guests &) = delete;

  // The rank begins to compute what guests may help with, or has ended it.
  void begin() {
    at_ = at_ + 2 > 2 ? at_ + 2 : 3;
    computing_->store(at_, std::memory_order_release);
  }
  void end_of(uint32_t at) { computing_->compare_exchange_strong(at, at + 1); }
  void finish() { end_of(at_); }

  // From here on guests may take units of the instruction, as it stands after `turn` barriers of the team. `last`: what
  // comes before the next collective is not worth staying for.
  void open(Kernel kernel, const Instruction &instruction, const Step &step, uint32_t turn, bool last) {
    kernel_ = kernel, instruction_ = &instruction, step_ = &step, last_ = last;
    open_.store(uint64_t(turn) + 1, std::memory_order_seq_cst);
  }

  // Returns once no guest is at work; called when no unit is left that nobody has begun.
  void close() {
    open_.store(0, std::memory_order_seq_cst);
    for (Place &place : places_)
      while (place.inside.load(std::memory_order_seq_cst)) relax();
  }

 private:
  enum Standing : uint32_t { NOBODY, IDLE };  // as comm_region.h has them; above, called for what `computing` was

  struct alignas(128) Place {
    std::atomic<uint32_t> inside{0};
  };

  void serve(int number) {
    const Lender &lender = lenders_[number];
    uint32_t core = 0;
    say(lender, IDLE);
    while (!ending_.load(std::memory_order_seq_cst)) {
      const uint32_t called = lender.guest->load(std::memory_order_acquire), now = lender.core->load(std::memory_order_relaxed);
      if (called <= IDLE) {
        syscall(SYS_futex, lender.guest, FUTEX_WAIT, called, nullptr, nullptr, 0);
        continue;
      }
      if (now != core && keeps_to(now - 1)) core = now;
      if (now == core) help(places_[number], called);
      say(lender, IDLE);
    }
    say(lender, NOBODY);
  }

  static void say(const Lender &lender, uint32_t standing) {
    lender.guest->store(standing, std::memory_order_seq_cst);
    syscall(SYS_futex, lender.guest, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  }

  void help(Place &place, uint32_t at) {
    for (uint64_t done = 0; computing_->load(std::memory_order_acquire) == at && !ending_.load(std::memory_order_acquire);) {
      if (const uint64_t seen = open_.load(std::memory_order_relaxed); !seen || seen == done) {
        relax();
        continue;
      }
      place.inside.store(1, std::memory_order_seq_cst);
      if (const uint64_t turn = open_.load(std::memory_order_seq_cst)) {
        const uint32_t of = uint32_t(turn - 1);
        kernel_(*instruction_, *step_, TeamMember(threads_, threads_, queues_, &of));
        done = turn;
        if (last_) end_of(at);
      }
      place.inside.store(0, std::memory_order_release);
    }
  }

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
      uint32_t idle = IDLE;
      lenders_[i].guest->compare_exchange_strong(idle, NOBODY);
      syscall(SYS_futex, lenders_[i].guest, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
    }
    for (auto &guest : guests_) guest.join();
  }

  const std::vector<Lender> lenders_;
  std::atomic<uint32_t> *const computing_;
  const int threads_;
  UnitQueue *const queues_;
  Kernel kernel_ = nullptr;
  const Instruction *instruction_ = nullptr;
  const Step *step_ = nullptr;
  bool last_ = false;
  uint32_t at_ = 1;  // odd
  std::atomic<uint64_t> open_{0};  // turn + 1
  std::atomic<bool> ending_{false};
  std::vector<Place> places_;
  std::vector<std::thread> guests_;
};

}  // namespace weft
