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

  // From here on guests may take units of the instruction, as it stands after `turn` barriers of the team.
  void open(Kernel kernel, const Instruction &instruction, const Step &step, uint32_t turn) {
    kernel_ = kernel, instruction_ = &instruction, step_ = &step;
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
  static constexpr long kSliceNs = 100'000'000;       // how late a guest sees the end whose waking it missed

  struct alignas(128) Place {
    std::atomic<uint32_t> inside{0};
  };

  static void futex(std::atomic<uint32_t> *word, int op, uint32_t value, const timespec *timeout) {
    syscall(SYS_futex, word, op, value, timeout, nullptr, 0);
  }

  void serve(int number) {
    const Lender &lender = lenders_[number];
    const timespec slice{0, kSliceNs};
    lender.guest->store(IDLE, std::memory_order_release);
    for (uint32_t core = 0; !ending_.load(std::memory_order_acquire);) {
      if (lender.guest->load(std::memory_order_acquire) != CALLED) {
        futex(lender.guest, FUTEX_WAIT, IDLE, &slice);
        continue;
      }
      if (const uint32_t now = lender.core->load(std::memory_order_relaxed); now != core) keep_to((core = now) - 1);
      help(places_[number]);
      lender.guest->store(IDLE, std::memory_order_release);
      futex(lender.guest, FUTEX_WAKE, INT_MAX, nullptr);
    }
    lender.guest->store(NOBODY, std::memory_order_release);
    futex(lender.guest, FUTEX_WAKE, INT_MAX, nullptr);
  }

  void help(Place &place) const {
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

  void end() {
    ending_.store(true, std::memory_order_release);
    for (const Lender &lender : lenders_) futex(lender.guest, FUTEX_WAKE, INT_MAX, nullptr);
    for (auto &guest : guests_) guest.join();
  }

  const std::vector<Lender> lenders_;
  std::atomic<uint32_t> *const computing_;
  const int threads_;
  UnitQueue *const queues_;
  Kernel kernel_ = nullptr;
  const Instruction *instruction_ = nullptr;
  const Step *step_ = nullptr;
  std::atomic<uint64_t> open_{0};  // turn + 1
  std::atomic<bool> ending_{false};
  std::vector<Place> places_;
  std::vector<std::thread> guests_;
};

}  // namespace weft
