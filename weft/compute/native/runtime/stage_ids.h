// Sampled ids between the last pipeline stage, which chooses them, and the first, which embeds them in the next step of their
// rows. Reference: weft/runtime/worker/stage_ids.py, which shares the queue.
#pragma once

#include "runtime/program.h"

namespace weft {

// Receives the ids of all steps before step `below` that have not arrived. 0, or what the exchange gave.
inline int take_ids(StageIds& ids, Program* program, int64_t* last_ids, uint64_t below) {
    for (; ids.first < ids.end; ++ids.first) {
        const int64_t* const step = ids.queue + ids.first % ids.room * ids.width;
        const int64_t rows = step[1], *const slots = step + 2;
        if (uint64_t(step[0]) >= below) break;
        if (const int code = program->message(RECV, uint32_t(ids.group), ids.values, rows * 2, F64))
            return ids.failed = 1, code;
        for (int64_t r = 0; r < rows; ++r)
            if (slots[r] >= 0) last_ids[slots[r]] = int64_t(ids.values[2 * r]);
    }
    return 0;
}

inline bool has_room(const StageIds& ids) { return !ids.takes || ids.end - ids.first < ids.room; }

// Step `index`, whose rows have these slots, was sent on: its ids will come.
inline void expect_ids(StageIds& ids, uint64_t index, const int64_t* slots, int64_t rows) {
    if (!ids.takes) return;
    int64_t* const step = ids.queue + ids.end++ % ids.room * ids.width;
    step[0] = int64_t(index), step[1] = rows;
    memcpy(step + 2, slots, size_t(rows) * sizeof(*slots));
}

// From the last stage. 0, or what the exchange gave.
inline int send_ids(StageIds& ids, Program* program, const int64_t* chosen, int64_t rows) {
    if (!ids.gives) return 0;
    for (int64_t r = 0; r < rows; ++r) ids.values[2 * r] = double(chosen[r]), ids.values[2 * r + 1] = 1;
    const int code = program->message(SEND, uint32_t(ids.group), ids.values, rows * 2, F64);
    return ids.failed = code != 0, code;
}

}  // namespace weft
