// What a test asks: which weights a thread fetches behind an instruction.
#include "weights_ahead.h"

// Behind instruction `done` of a program: how many bytes from `from` on; 0 where nothing is fetched.
WEFT_C int64_t probe_first_weights(const weft::Instruction* code, int count, int done, const weft::Step* step, int thread,
                                   int threads, const char** from) {
    const auto ahead = weft::products_ahead(code, count, [](int op) { return op >= weft::ALL_REDUCE; });
    if (!ahead[done]) return 0;
    const weft::FirstWeights weights(*ahead[done], *step, weft::TeamMember(thread, threads));
    *from = weights.from;
    return weights.bytes;
}
