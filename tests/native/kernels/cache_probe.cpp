// What a test asks: which lines of the cache each thread fetches, operation by operation and pair by pair.
#include "kernels/gemm/prefetch_kv.h"

// Of instruction `linear` of a program: the lines' addresses at `to`, in order; how many, at most `room`. Each pair takes
// `most` neighbours at a time until there are no more; pairs below `first` and behind the last are multiplied too.
WEFT_C int64_t probe_cache_lines(const weft::Instruction* code, int count, int linear, const weft::Step* step, int thread,
                                 int threads, int first, int pairs, int most, uint64_t* to, int64_t room) {
    const auto ahead = weft::caches_ahead(code, count);
    if (!ahead[linear].attention) return 0;
    weft::CacheLines cache;
    cache.plan(ahead[linear], *step, thread, threads, first, pairs);
    int64_t found = 0;
    for (int pair = -1; pair < first + pairs + 3; ++pair) {
        cache.begin(pair);
        for (auto lines = cache.take(most); lines.count; lines = cache.take(most))
            for (int line = 0; line < lines.count; ++line, ++found)
                if (found < room) to[found] = reinterpret_cast<uint64_t>(lines.from + 64 * line);
    }
    return found;
}
