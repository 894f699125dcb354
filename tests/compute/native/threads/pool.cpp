// The pool's jobs without Python, for a build that watches threads. Ends with 1 where a job went wrong.
#include "../runtime/pool_probe.cpp"

#include <numeric>

namespace {

int64_t run_all(int threads, int64_t spin) {
    int32_t error = 0;
    weft::Pool* pool = weft_pool_new(threads, nullptr, spin, &error);
    if (!pool) return 1;
    std::vector<int64_t> cells(threads), sizes(threads, 7), done(7 * threads), first(threads);
    int64_t wrong = probe_turns(pool, cells.data(), 100);
    probe_shares(pool, sizes.data(), done.data(), 50, 1);
    for (int64_t times : done) wrong += times != 50;
    for (int yields = 0; yields < 2; ++yields) {
        weft_pool_yield_core(pool, yields);
        std::vector<int64_t> late(20 * 31);
        wrong += probe_late(pool, 31, 20, 5, late.data(), first.data(), yields);
        for (int64_t times : late) wrong += times != 1;
    }
    weft_pool_free(pool);
    return wrong;
}

}  // namespace

int main() {
    int64_t wrong = 0;
    for (int threads : {1, 2, 3, 8})
        for (int64_t spin : {0, 20000}) wrong += run_all(threads, spin);
    return wrong != 0;
}
