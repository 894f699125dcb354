// Runs units of work on several threads: those of the process's OpenMP runtime where the caller found one (so that its
// threads and ours are the same, and never wait for each other's cores), else threads of our own for this call.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

namespace weft {

// GOMP_parallel: calls body(data) once on each of `threads` threads and waits for all.
using TeamCall = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

template <class Unit> class Deal {
public:
    Deal(int units, Unit& unit) : units_(units), unit_(unit) {}

    void run(int threads, TeamCall team) {
        if (threads > units_) threads = units_;
        if (threads <= 1) return work(this);
        if (team) return team(&Deal::work, this, unsigned(threads), 0);
        std::vector<std::thread> others;
        for (int i = 1; i < threads; ++i) others.emplace_back(&Deal::work, this);
        work(this);
        for (auto& other : others) other.join();
    }

private:
    static void work(void* self) {
        auto& deal = *static_cast<Deal*>(self);
        for (int i; (i = deal.next_.fetch_add(1, std::memory_order_relaxed)) < deal.units_;) deal.unit_(i);
    }

    int units_;
    Unit& unit_;
    std::atomic<int> next_{0};
};

template <class Unit> void deal(int units, int threads, TeamCall team, Unit&& unit) {
    Deal<Unit>(units, unit).run(threads, team);
}

}  // namespace weft
