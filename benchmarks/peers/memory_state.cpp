// What the machine gives at this moment: answers each line of its input with one line of JSON, about 60 ms later.
//
//   gb_per_s       read bandwidth of all threads together, over 257 MiB (about what the embedded model has)
//   flag_us        one way of a flag between the first two cores: shows whether they share a die
//   gflop_per_s    products in registers, all threads: of bf16 in tiles, or in vectors of pairs or of numbers widened to
//                  fp32, whichever are faster; 0 where the processor has no AVX-512
//
// Threads are pinned to the cores that the process may use. Sleeps between questions.
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

constexpr size_t kBytes = 257ul << 20;
constexpr int kReads = 2, kFlags = 20000, kProducts = 2000000, kTileProducts = 1000000;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::vector<int> cores() {
    cpu_set_t set;
    sched_getaffinity(0, sizeof set, &set);
    std::vector<int> found;
    for (int core = 0; core < CPU_SETSIZE; core++)
        if (CPU_ISSET(core, &set)) found.push_back(core);
    return found;
}

void pin(int core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

// Seconds from the moment that every thread is there until the last has finished `work(thread)`.
double together(const std::vector<int>& on, const std::function<void(int)>& work) {
    std::atomic<size_t> there{0};
    std::vector<double> began(on.size()), ended(on.size());
    std::vector<std::thread> threads;
    for (size_t t = 0; t < on.size(); t++)
        threads.emplace_back([&, t] {
            pin(on[t]);
            there++;
            while (there < on.size()) {}
            began[t] = now();
            work(static_cast<int>(t));
            ended[t] = now();
        });
    double first = 1e300, last = 0;
    for (size_t t = 0; t < on.size(); t++) {
        threads[t].join();
        first = began[t] < first ? began[t] : first;
        last = ended[t] > last ? ended[t] : last;
    }
    return last - first;
}

volatile unsigned long sink;

// Reads of `kLines` lines whose sums do not wait for each other. Which number is fastest differs by processor.
template <int kLines> double bandwidth_by(const std::vector<int>& on, const unsigned long* data) {
    constexpr size_t kStep = kLines * 8;
    const size_t share = kBytes / sizeof(unsigned long) / on.size() / kStep * kStep;
    const double seconds = together(on, [&](int thread) {
        const unsigned long* part = data + thread * share;
        unsigned long sums[kStep] = {};
        for (int read = 0; read < kReads; read++)
            for (size_t i = 0; i < share; i += kStep)
                for (size_t lane = 0; lane < kStep; lane++) sums[lane] ^= part[i + lane];
        for (unsigned long sum : sums) sink = sink + sum;
    });
    return kReads * share * sizeof(unsigned long) * on.size() / seconds / 1e9;
}

double bandwidth(const std::vector<int>& on, const unsigned long* data) {
    return std::max(bandwidth_by<1>(on, data), bandwidth_by<8>(on, data));
}

double flag(const std::vector<int>& on) {
    if (on.size() < 2) return 0;
    struct alignas(256) Flag {
        std::atomic<int> value{0};
    } flags[2];
    const double seconds = together({on[0], on[1]}, [&](int thread) {
        for (int i = 1; i <= kFlags; i++) {
            if (thread == 0) flags[0].value.store(i, std::memory_order_release);
            while (flags[1 - thread].value.load(std::memory_order_acquire) < i) {}
            if (thread == 1) flags[1].value.store(i, std::memory_order_release);
        }
    });
    return seconds / kFlags / 2 * 1e6;
}

#ifdef __AMX_BF16__

// Asks the system for tile registers (Linux, Documentation/arch/x86/xstate.rst).
bool tiles_allowed() { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

double tile_products(const std::vector<int>& on) {
    const double seconds = together(on, [&](int) {
        struct {
            unsigned char palette = 1, start = 0, reserved[14] = {};
            unsigned short row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            unsigned char rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } shape;
        asm volatile("" ::"r"(&shape) : "memory");
        _tile_loadconfig(&shape);
        for (int i = 0; i < kTileProducts; i++) {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_release();
    });
    return 2.0 * 16 * 16 * 32 * 4 * kTileProducts * on.size() / seconds / 1e9;
}

#else

bool tiles_allowed() { return false; }
double tile_products(const std::vector<int>&) { return 0; }

#endif

#ifdef __AVX512F__

// GFLOP/s of vector instructions that do `flop` each: step(sum, zero) for sums that do not wait for each other.
template <class Step> double vector_rate(const std::vector<int>& on, double flop, Step step) {
    const double seconds = together(on, [&](int) {
        __m512 zero = _mm512_setzero_ps(), sums[16];
#pragma GCC unroll 16
        for (int lane = 0; lane < 16; lane++) sums[lane] = _mm512_set1_ps(static_cast<float>(lane));
        for (int i = 0; i < kProducts; i++) {
#pragma GCC unroll 16
            for (int lane = 0; lane < 16; lane++) sums[lane] = step(sums[lane], zero);
            asm volatile("" : "+v"(zero));
        }
#pragma GCC unroll 16
        for (int lane = 0; lane < 16; lane++) sink = sink + static_cast<unsigned long>(_mm512_cvtss_f32(sums[lane]));
    });
    return flop * 16 * kProducts * on.size() / seconds / 1e9;
}

double vector_products(const std::vector<int>& on) {
    const double widened = vector_rate(on, 32, [](__m512 sum, __m512 zero) { return _mm512_fmadd_ps(zero, zero, sum); });
    double pairs = 0;
#ifdef __AVX512BF16__
    pairs = vector_rate(on, 64, [](__m512 sum, __m512 zero) { return _mm512_dpbf16_ps(sum, (__m512bh)zero, (__m512bh)zero); });
#endif
    return pairs > widened ? pairs : widened;
}

#else

double vector_products(const std::vector<int>&) { return 0; }

#endif

}  // namespace

int main() {
    const std::vector<int> on = cores();
    void* data = nullptr;
    if (posix_memalign(&data, 2 << 20, kBytes)) return 1;
    madvise(data, kBytes, MADV_HUGEPAGE);
    for (size_t i = 0; i < kBytes / sizeof(unsigned long); i++) static_cast<unsigned long*>(data)[i] = i;
    const bool tiles = tiles_allowed();
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        const double read = bandwidth(on, static_cast<unsigned long*>(data));
        printf("{\"gb_per_s\": %.2f, \"flag_us\": %.4f, \"gflop_per_s\": %.1f}\n", read, flag(on),
               tiles ? tile_products(on) : vector_products(on));
        fflush(stdout);
    }
}
