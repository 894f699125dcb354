// What a test of the pool calls: jobs that can only end right if every thread takes part and barriers hold.
#include "pool.h"

namespace {

struct Turns {
  weft::Pool *pool;
  int64_t *cells;  // one per thread
  int rounds;
  std::atomic<int64_t> wrong{0};
};

// In every round each thread raises its cell, meets the others, and checks that all cells stand at this round.
void turns(void *context, int thread, int threads) {
  auto &job = *static_cast<Turns *>(context);
  for (int round = 1; round <= job.rounds; ++round) {
    job.cells[thread] += 1;
    job.pool->barrier(thread);
    for (int i = 0; i < threads; ++i)
      if (job.cells[i] != round) job.wrong.fetch_add(1);
    job.pool->barrier(thread);
  }
}

void where(void *context, int thread, int) { static_cast<int64_t *>(context)[thread] = sched_getcpu(); }

}  // namespace

extern "C" int64_t probe_turns(weft::Pool *pool, int64_t *cells, int rounds) {
  Turns job{pool, cells, rounds, {}};
  pool->run(turns, &job);
  return job.wrong;
}

extern "C" void probe_cores(weft::Pool *pool, int64_t *cores) { pool->run(where, cores); }

extern "C" double probe_barrier_us(weft::Pool *pool, int64_t *cells, int rounds) {
  const int64_t begin = weft::monotonic_ns();
  probe_turns(pool, cells, rounds);
  return double(weft::monotonic_ns() - begin) / (2e3 * rounds);
}
