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
  // `computing`: whether lenders may call; `threads`, `queues`: of the team that guests steal from. Throws
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

  void compute(bool on) { computing_->store(on, std::memory_order_release); }

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
  enum Standing : uint32_t { NOBODY, IDLE, CALLED };  // as comm_region.h has them

  struct alignas(128) Place {
    std::atomic<uint32_t> inside{0};
  };

  void serve(int number) {
    const Lender &lender = lenders_[number];
    uint32_t core = 0;
    say(lender, IDLE);
    while (!ending_.load(std::memory_order_seq_cst)) {
      if (lender.guest->load(std::memory_order_acquire) != CALLED) {
        syscall(SYS_futex, lender.guest, FUTEX_WAIT, IDLE, nullptr, nullptr, 0);
        continue;
      }
      if (const uint32_t now = lender.core->load(std::memory_order_relaxed); now != core) keep_to((core = now) - 1);
      help(places_[number]);
      say(lender, IDLE);
    }
    say(lender, NOBODY);
  }

  static void say(const Lender &lender, uint32_t standing) {
    lender.guest->store(standing, std::memory_order_seq_cst);
    syscall(SYS_futex, lender.guest, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  }

  void help(Place &place) {
    for (uint64_t done = 0; computing_->load(std::memory_order_acquire) && !ending_.load(std::memory_order_acquire);) {
      if (const uint64_t seen = open_.load(std::memory_order_relaxed); !seen || seen == done) {
        relax();
        continue;
      }
      place.inside.store(1, std::memory_order_seq_cst);
      if (const uint64_t turn = open_.load(std::memory_order_seq_cst)) {
        const uint32_t of = uint32_t(turn - 1);
        kernel_(*instruction_, *step_, TeamMember(threads_, threads_, queues_, &of));
        done = turn;
        if (last_) compute(false);
      }
      place.inside.store(0, std::memory_order_release);
    }
  }

  static void keep_to(uint32_t core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    pthread_setaffinity_np(pthread_self(), sizeof(set), &set);  // elsewhere it helps too
  }

  // Who sleeps finds that it is idle no longer; who is at work looks before it sleeps.
  void end() {
    ending_.store(true, std::memory_order_seq_cst);
    for (size_t i = 0; i < guests_.size(); ++i) {
      uint32_t idle = IDLE;
      if (lenders_[i].guest->compare_exchange_strong(idle, NOBODY)) say(lenders_[i], NOBODY);
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
  std::atomic<uint64_t> open_{0};  // turn + 1
  std::atomic<bool> ending_{false};
  std::vector<Place> places_;
  std::vector<std::thread> guests_;
};

}  // namespace weft
