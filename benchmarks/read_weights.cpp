// Reads buffers as fast as plain loads can, each thread its share of every buffer; for decode_bound.py.
#include <pthread.h>
#include <sched.h>
#include <stdint.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace {

typedef uint64_t Line __attribute__((vector_size(64), may_alias, aligned(64)));
constexpr int kAhead = 32;  // lines that are asked for before they are read

Line read(const char *from, int64_t lines) {
  const Line *at = reinterpret_cast<const Line *>(from);
  Line sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= lines; i += 8)
    for (int j = 0; j < 8; ++j) {
      __builtin_prefetch(at + i + j + kAhead);
      sums[j] ^= at[i + j];
    }
  for (; i < lines; ++i) sums[0] ^= at[i];
  for (int j = 1; j < 8; ++j) sums[0] ^= sums[j];
  return sums[0];
}

}  // namespace

// Microseconds from the moment that all threads are there until the last has read its part. Buffers begin on a line.
extern "C" double read_us(const char *const *buffers, const int64_t *bytes, int count, const int *cores, int threads) {
  std::atomic<int> there{0};
  std::atomic<int64_t> first{INT64_MAX}, last{0};
  std::atomic<uint64_t> kept{0};
  auto now = [] { return std::chrono::steady_clock::now().time_since_epoch().count(); };
  std::vector<std::thread> readers;
  for (int t = 0; t < threads; ++t)
    readers.emplace_back([&, t] {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(cores[t], &set);
      pthread_setaffinity_np(pthread_self(), sizeof set, &set);
      for (++there; there < threads;) continue;
      const int64_t began = now();
      Line sum = {};
      for (int b = 0; b < count; ++b) {
        const int64_t lines = bytes[b] / 64, from = lines * t / threads, to = lines * (t + 1) / threads;
        sum ^= read(buffers[b] + from * 64, to - from);
      }
      const int64_t ended = now();
      kept ^= sum[0];
      for (int64_t seen = first; began < seen && !first.compare_exchange_weak(seen, began);) continue;
      for (int64_t seen = last; ended > seen && !last.compare_exchange_weak(seen, ended);) continue;
    });
  for (auto &reader : readers) reader.join();
  return double(last - first) / 1e3;
}
