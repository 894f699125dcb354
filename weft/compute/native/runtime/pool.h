// A thread pool that runs one function on all threads, with barriers inside it.
//
// A waiting thread spins for `spin_ns` (most waits end within a microsecond), then sleeps on a futex, so that an idle pool
// uses no CPU and more threads than cores still make progress. Each thread signals in a cache line of its own. The workers
// end with the pool. They belong to the process that made the pool: after a fork, the child runs everything on its one thread.
#pragma once

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#include "runtime/instruction.h"
#include "runtime/yielding_thread.h"
#include "runtime/signals.h"

namespace weft {

class Pool {
public:
    using Function = void (*)(void* context, const TeamMember& me);

    // `threads` with the caller's, which is thread 0; `cores`: one for each thread to be pinned to, or null. Throws
    // std::system_error where a thread cannot be made or pinned.
    Pool(int threads, const int32_t* cores, int64_t spin_ns)
        : threads_(threads), spin_ns_(spin_ns), owner_(getpid()), places_(new Place[threads]), queues_(new UnitQueue[threads]) {
        if (cores) pin(cores[0]);
        workers_.reserve(threads - 1);
        try {
            for (int i = 1; i < threads; ++i) {
                workers_.emplace_back(&Pool::work, this, i);
                if (cores)
                    check(pthread_setaffinity_np(workers_.back().native_handle(), sizeof(cpu_set_t), only(cores[i]).get()));
            }
        } catch (...) {
            end();
            throw;
        }
    }

    ~Pool() { end(); }
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_; }
    void set_stealing(bool on) { steals_.store(on, std::memory_order_relaxed); }
    int64_t spin_ns() const { return spin_ns_.load(std::memory_order_relaxed); }
    void set_spin(int64_t spin_ns) { spin_ns_.store(spin_ns, std::memory_order_relaxed); }

    // The caller's thread to cores[0], the others to the cores that follow. Returns errno's number, 0 where it went well.
    int pin_all(const int32_t* cores) {
        try {
            pin(cores[0]);
            for (int i = 1; i < threads_; ++i)
                check(pthread_setaffinity_np(workers_[i - 1].native_handle(), sizeof(cpu_set_t), only(cores[i]).get()));
        } catch (const std::system_error& failure) {
            return failure.code().value();
        }
        return 0;
    }

    // Whether the last thread yields its core at the start of a job that allows it to join late.
    void set_yielding(bool on) { yields_core_.store(on, std::memory_order_relaxed); }

    // Which thread may join a function late: none; the last one, which yields its core; the last one only if it missed the job
    // before.
    enum class MayYield { kNone, kLast, kIfAway };

    // Calls function(context, member) on every thread and returns when all are done. One caller at a time. A function that lets
    // a thread join late calls `join_late`, begins at `first_of(thread)`, and may run without the last thread throughout; a
    // thread that missed the previous such job is not waited for in other jobs either.
    void run(Function function, void* context, MayYield late = MayYield::kNone) {
        if (threads_ == 1 || getpid() != owner_) return alone(function, context);
        function_ = function;
        context_ = context;
        const bool yields_core = yields_core_.load(std::memory_order_relaxed);
        const bool may_come = yields_core && (late == MayYield::kLast || (late == MayYield::kIfAway && away_));
        const bool misses = may_come || (away_ && yields_core);
        places_[0].present = at_start_ = threads_ - misses;
        yielding_.announce(++job_,
                           may_come ? YieldingThread::kMayCome
                           : misses ? YieldingThread::kTooLate
                                    : YieldingThread::kAwaited,
                           places_[0].turn);
        places_[0].go.raise();
        function(context, member(0));
        away_ = places_[0].present < threads_;
        if (may_come && away_) yielding_.close();
        barrier(0);
    }

    // By thread 0, once before a barrier: a thread that asks to join begins after that barrier, at instruction `next`. Returns
    // whether one does.
    bool join_late(size_t next) {
        return !alone_ && places_[0].present < threads_ && yielding_.join_late(places_[0].turn + 1, next);
    }
    size_t first_of(int thread) const { return places_[thread].first; }

    // Returns once every thread has called it; true: the team has grown and `member` gives this thread's new share. Only inside
    // a function that `run` runs, on all its threads.
    bool barrier(int thread) {
        if (alone_) return false;
        Place* const all = places_.get();
        const uint32_t turn = ++all[thread].turn;
        const int present = all[thread].present;
        if (threads_ <= kDirect) {
            all[thread].arrived.raise();
            for (int i = 0; i < present; ++i)
                if (i != thread) wait(all[i].arrived, turn);
        } else if (thread) {
            all[thread].arrived.raise();
            wait(all[0].arrived, turn);
        } else {
            for (int i = 1; i < present; ++i) wait(all[i].arrived, turn);
            all[0].arrived.raise();
        }
        if (present == threads_ || !yielding_.is_in(turn)) return false;
        all[thread].present = threads_;
        return true;
    }

    TeamMember member(int thread) const {
        Place& place = places_[thread];
        return {thread, place.present, steals_.load(std::memory_order_relaxed) ? queues_.get() : nullptr, &place.turn};
    }

private:
    static constexpr int kDirect = 8;  // up to here all threads watch each other: one hop instead of two

    struct alignas(128) Place {  // 128: the neighbouring line is often fetched with a line
        Signal arrived;
        Signal go;  // of place 0 only
        uint32_t turn = 0;
        int present = 1;   // threads of the team, as this one knows
        size_t first = 0;  // first instruction of the current job that it runs
    };

    void wait(Signal& signal, uint32_t wanted) { signal.wait(wanted, spin_ns()); }

    void alone(Function function, void* context) {
        alone_ = true;
        function(context, TeamMember(0, 1));
        alone_ = false;
    }

    void work(int thread) {
        if (thread == threads_ - 1) return work_yielding(thread);
        for (uint32_t job = 1;; ++job) {
            wait(places_[0].go, job);
            if (ending_.load(std::memory_order_acquire)) return;
            places_[thread].present = at_start_;
            function_(context_, member(thread));
            barrier(thread);
        }
    }

    // As `work`, of the last thread, which may miss jobs, and barriers of others.
    void work_yielding(int thread) {
        Place& own = places_[thread];
        own.present = threads_;
        for (uint32_t job = 0;;) {
            places_[0].go.wait(job + 1, spin_ns(), yields_core_.load(std::memory_order_relaxed));
            if (ending_.load(std::memory_order_acquire)) return;
            if (!yielding_.comes(job)) continue;
            own.turn = yielding_.turn(), own.first = yielding_.next();
            own.arrived.skip_to(own.turn);
            for (int i = 0; i < (threads_ <= kDirect ? thread : 1); ++i) wait(places_[i].arrived, own.turn);
            function_(context_, member(thread));
            barrier(thread);
        }
    }

    void end() {
        if (getpid() != owner_) {  // the workers were not copied by the fork
            for (auto& worker : workers_) worker.detach();
            return;
        }
        ending_.store(true, std::memory_order_release);
        places_[0].go.raise();
        for (auto& worker : workers_) worker.join();
    }

    static void check(int error) {
        if (error) throw std::system_error(error, std::generic_category());
    }
    static std::unique_ptr<cpu_set_t> only(int core) {
        if (core < 0 || core >= CPU_SETSIZE) check(EINVAL);
        auto set = std::make_unique<cpu_set_t>();
        CPU_ZERO(set.get());
        CPU_SET(core, set.get());
        return set;
    }
    static void pin(int core) { check(pthread_setaffinity_np(pthread_self(), sizeof(cpu_set_t), only(core).get())); }

    const int threads_;
    std::atomic<int64_t> spin_ns_;
    std::atomic<bool> steals_{true};
    const pid_t owner_;
    std::unique_ptr<Place[]> places_;
    std::unique_ptr<UnitQueue[]> queues_;
    std::atomic<bool> yields_core_{false};
    YieldingThread yielding_;
    uint32_t job_ = 0;
    int at_start_ = 1;   // threads at the start of the current job
    bool away_ = false;  // the last thread missed the last job that it could join late
    Function function_ = nullptr;
    void* context_ = nullptr;
    bool alone_ = false;
    std::atomic<bool> ending_{false};
    std::vector<std::thread> workers_;
};

// unit(i) for every i below `units`.
template <class Unit> void parallel_for(Pool* pool, int units, Unit&& unit) {
    struct Job {
        int units;
        Unit& unit;
    } job{units, unit};
    pool->run(
        [](void* given, const TeamMember& me) {
            Job& it = *static_cast<Job*>(given);
            me.run_evenly(it.units, [&](int64_t from, int64_t to) {
                for (int64_t i = from; i < to; ++i) it.unit(int(i));
            });
        },
        &job);
}

}  // namespace weft

// For ctypes. `weft_pool_new` gives null, and why in errno's terms at `error`, where threads cannot be made or pinned.
WEFT_C weft::Pool* weft_pool_new(int threads, const int32_t* cores, int64_t spin_ns, int32_t* error) {
    try {
        *error = 0;
        return new weft::Pool(threads, cores, spin_ns);
    } catch (const std::system_error& failure) {
        *error = failure.code().value();
    } catch (const std::bad_alloc&) {
        *error = ENOMEM;
    }
    return nullptr;
}
WEFT_C int weft_pool_pin(weft::Pool* pool, const int32_t* cores) { return pool->pin_all(cores); }
WEFT_C void weft_pool_free(weft::Pool* pool) { delete pool; }
// Whether threads steal each other's units from now on, as they do at first.
WEFT_C void weft_pool_stealing(weft::Pool* pool, int on) { pool->set_stealing(on != 0); }
// Whether the last thread yields its core when a program begins; off at first.
WEFT_C void weft_pool_yield_core(weft::Pool* pool, int on) { pool->set_yielding(on != 0); }
WEFT_C void weft_pool_spin(weft::Pool* pool, int64_t spin_ns) { pool->set_spin(spin_ns); }
