// What a test of the pool calls: jobs that can only end right if every thread takes part and barriers hold.
#include "runtime/instruction.h"
#include "runtime/pool.h"

namespace {

struct Turns {
    weft::Pool* pool;
    int64_t* cells;  // one per thread
    int rounds;
    std::atomic<int64_t> wrong{0};
};

// In every round each thread raises its cell, meets the others, and checks that all cells stand at this round.
void turns(void* context, const weft::TeamMember& me) {
    auto& job = *static_cast<Turns*>(context);
    const int thread = me.thread, threads = me.threads;
    for (int round = 1; round <= job.rounds; ++round) {
        job.cells[thread] += 1;
        job.pool->barrier(thread);
        for (int i = 0; i < threads; ++i)
            if (job.cells[i] != round) job.wrong.fetch_add(1);
        job.pool->barrier(thread);
    }
}

struct Shares {
    weft::Pool* pool;
    const int64_t* sizes;        // units of each thread
    std::atomic<int64_t>* done;  // of every unit, thread by thread, how often it was run
    int rounds;
    bool first_waits;  // thread 0 goes on only when all units but those in its hands are done
    std::atomic<int64_t> left{0}, not_its_own{0};

    int64_t start_of(int owner) const {
        int64_t start = 0;
        for (int i = 0; i < owner; ++i) start += sizes[i];
        return start;
    }
};

void shares(void* context, const weft::TeamMember& me) {
    auto& job = *static_cast<Shares*>(context);
    const int thread = me.thread;
    for (int round = 0; round < job.rounds; ++round) {
        if (!thread) job.left = job.start_of(me.threads);
        job.pool->barrier(thread);
        me.run_units([&](int owner) { return job.sizes[owner]; },
                     [&](int owner, int64_t from, int64_t to) {
                         for (int64_t i = from; i < to; ++i) job.done[job.start_of(owner) + i].fetch_add(1);
                         if (owner != thread) job.not_its_own.fetch_add(to - from);
                         job.left.fetch_sub(to - from);
                         while (job.first_waits && !thread && job.left.load()) weft::relax();
                     });
        job.pool->barrier(thread);
    }
}

// Instructions one after the other, each of `units`, to which the last thread may come late; thread 0 waits for it before
// the barrier that ends instruction `waits_at`.
struct Late {
    weft::Pool* pool;
    int64_t units, rounds, waits_at;
    std::atomic<int64_t>* done;  // [rounds, units]
    int64_t* first;              // of each thread: with which instruction it began, or -1
    std::atomic<int64_t> wrong{0};
};

void late(void* context, const weft::TeamMember& given) {
    auto& job = *static_cast<Late*>(context);
    weft::TeamMember me = given;
    const int thread = me.thread;
    job.first[thread] = int64_t(job.pool->first_of(thread));
    for (int64_t round = job.first[thread]; round < job.rounds; ++round) {
        std::atomic<int64_t>* const done = job.done + round * job.units;
        me.run_evenly(job.units, [&](int64_t from, int64_t to) {
            for (int64_t i = from; i < to; ++i) done[i].fetch_add(1);
        });
        if (!thread) {
            const bool whole = me.threads == job.pool->threads();
            while (!job.pool->join_late(size_t(round) + 1) && round == job.waits_at && !whole) sched_yield();
        }
        if (job.pool->barrier(thread)) me = job.pool->member(thread);
        for (int64_t i = 0; i < job.units; ++i)
            if (done[i].load() != 1) job.wrong.fetch_add(1);
    }
}

// In every round thread 0 comes to the barrier only when each of the others did something `wanted` times while it waited.
void where(void* context, const weft::TeamMember& me) { static_cast<int64_t*>(context)[me.thread] = sched_getcpu(); }

}  // namespace

WEFT_C int64_t probe_turns(weft::Pool* pool, int64_t* cells, int rounds) {
    Turns job{pool, cells, rounds, {}};
    pool->run(turns, &job);
    return job.wrong;
}

// Units that a thread ran which were another's.
WEFT_C int64_t probe_shares(weft::Pool* pool, const int64_t* sizes, int64_t* done, int rounds, int first_waits) {
    Shares job{pool, sizes, reinterpret_cast<std::atomic<int64_t>*>(done), rounds, first_waits != 0, {}, {}};
    pool->run(shares, &job);
    return job.not_its_own;
}

// Units that were not done, or more than once, when the barrier after them had been passed. `if_away`: the last thread may
// come late only if it still is.
WEFT_C int64_t probe_late(weft::Pool* pool, int64_t units, int64_t rounds, int64_t waits_at, int64_t* done, int64_t* first,
                          int if_away) {
    Late job{pool, units, rounds, waits_at, reinterpret_cast<std::atomic<int64_t>*>(done), first, {}};
    pool->run(late, &job, if_away ? weft::Pool::MayYield::kIfAway : weft::Pool::MayYield::kLast);
    return job.wrong;
}

WEFT_C void probe_cores(weft::Pool* pool, int64_t* cores) { pool->run(where, cores); }

WEFT_C double probe_barrier_us(weft::Pool* pool, int64_t* cells, int rounds) {
    const int64_t begin = weft::monotonic_ns();
    probe_turns(pool, cells, rounds);
    return double(weft::monotonic_ns() - begin) / (2e3 * rounds);
}
