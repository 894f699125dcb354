// What a test asks: which weights a thread fetches while it waits.
#include "weights_ahead.h"

WEFT_C int probe_tile_rows() { return weft::kTileRows; }

WEFT_C void probe_linears_ahead(const weft::Instruction* code, int count, int32_t* to) {
    const auto found = weft::linears_ahead(code, count);
    std::copy(found.begin(), found.end(), to);
}

// Plans the instructions `order`, one after the other, and takes `times` of each (negative: all that is left): addresses of
// lines of codes to `codes`, of numbers to `numbers`, and how many to `counts`.
WEFT_C void probe_weight_lines(const weft::Instruction* code, const int32_t* order, const int32_t* times, int planned,
                               const weft::Step* step, int thread, int threads, uint64_t* codes, uint64_t* numbers,
                               int64_t* counts) {
    weft::WeightLines weights;
    auto put = [](weft::WeightLines::Lines lines, uint64_t* to, int64_t& count) {
        for (int i = 0; i < lines.count; ++i) to[count++] = reinterpret_cast<uint64_t>(lines.from) + 64 * uint64_t(i);
        return lines.count;
    };
    for (int p = 0; p < planned; ++p) {
        weights.plan(order[p], code[order[p]], *step, thread, threads);
        for (int taken = 0; taken != times[p]; ++taken) {
            const int some = put(weights.take_codes(), codes, counts[0]);
            if (!(some + put(weights.take_numbers(), numbers, counts[1]))) break;
        }
    }
}
