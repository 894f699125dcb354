// Runs consecutive decode steps without Python: while each frame is a decode step whose counts of rows are those of a step that
// Python ran, the loop reads it, runs the step and answers. With pipeline stages steps of several batches take turns, whose
// sizes differ. Any other frame, and a step whose tokens Python must sample, stays in the stream for Python.
// Reference: weft/runtime/worker/rank.py.
#pragma once

#include <errno.h>
#include <sys/socket.h>

#include "runtime/decode_step.h"
#include "runtime/frames.h"
#include "runtime/stage_ids.h"

namespace weft {

// A rank's record on the status page; weft/runtime/ipc/status.py.
struct Status {
    uint8_t phase, busy, kind, inside;
    uint32_t collective;
    uint64_t step, calls, since_ns;
    uint64_t busy_ns, rows, exchange_ns, received, held[2], stage_wait_ns, pad[5];
};
static_assert(sizeof(Status) == 128, "as in weft/runtime/ipc/status.py");

// A rank that sends no answers has nothing to do before the next frame, so it polls for a while: it then needs no wakeup, and
// the other ranks do not wait for one.
inline void look_for_frame(const Following& f, int64_t spin_ns) {
    char first;
    const int64_t until = monotonic_ns() + spin_ns;
    while (recv(f.fd, &first, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN && monotonic_ns() < until) relax();
}

// Bytes of the frame that waits, without its length; 0 where none is wholly there. Waits for its first byte.
inline int64_t waiting_frame(const Following& f, int64_t spin_ns) {
    if (!f.reports) look_for_frame(f, spin_ns);
    const int64_t there = recv(f.fd, f.frame, size_t(f.frame_room), MSG_PEEK);
    uint32_t size;
    if (there < int64_t(sizeof size)) return 0;
    memcpy(&size, f.frame, sizeof size);
    return int64_t(size) + 4 <= there ? size : 0;
}

inline bool take_tables(Decode& d, const StreamsPlan& plan) {
    for (int pass = 0; pass < 2; ++pass)  // none is written unless all can be
        for (int64_t t = 0; t < plan.tables; ++t) {
            int64_t slot_known_block[3];
            memcpy(slot_known_block, plan.grown + t * kTableBytes, kTableBytes);
            const auto [slot, known, block] = slot_known_block;
            if (uint64_t(slot) >= uint64_t(d.slots) || uint64_t(known) >= uint64_t(d.table_width)) return false;
            if (!pass) continue;
            d.tables[slot * d.table_width + known] = int32_t(block);
            if (block > *d.highest) *d.highest = block;
        }
    return true;
}

inline bool send_all(int fd, const uint8_t* from, int64_t size) {
    while (size > 0) {
        const int64_t sent = send(fd, from, size_t(size), MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return false;
        from += sent, size -= sent;
    }
    return true;
}

constexpr int kUnchosen = -2;

// The step, its ids received and sent. What `decode_step` gives, or an exchange of ids.
inline int run_step(Program* program, Decode& d, Following& f, const StreamsPlan& plan) {
    StageIds& ids = *f.ids;
    if (const int code = take_ids(ids, program, d.last_ids, plan.awaits)) return code;
    if (!has_room(ids)) return kBeyondTables;
    if (const int code = decode_step(program, &f.shapes[f.current].step, d)) return code;
    expect_ids(ids, plan.index, d.columns, d.rows);
    return d.chose ? send_ids(ids, program, d.chosen, d.rows) : 0;
}

// One step; what `run_step` gives, or kUnchosen: it ran, and its tokens are not chosen.
inline int follow_step(Program* program, Decode& d, Following& f, const StreamsPlan& plan) {
    Status& status = *f.status;
    const int64_t began = monotonic_ns(), waited = program->exchange_ns(), for_stages = program->stage_wait_ns();
    const uint64_t received = program->received();
    ++status.step, status.busy = 1;
    const int code = run_step(program, d, f, plan);
    if (code == kBeyondTables) --status.step, status.busy = 0;
    if (code) return code;
    const int64_t took = monotonic_ns() - began, rows = f.shapes[f.current].counted;
    f.busy_ns += took;
    if (f.samples && !d.chose) return kUnchosen;
    status.busy_ns += took, status.rows += rows;
    status.exchange_ns += program->exchange_ns() - waited, status.received += program->received() - received;
    status.stage_wait_ns += program->stage_wait_ns() - for_stages;
    status.busy = 0;
    ++f.steps, f.counted += rows;
    return 0;
}

inline void take_shape(Decode& d, const DecodeShape& shape) {
    d.rows = shape.rows, d.own_first = shape.own_first, d.own_count = shape.own_count, d.rows_of = shape.rows_of;
}

// Reads the plan of the frame that waits, and gives the frame's bytes; 0 where it is none of these steps.
inline int64_t take_frame(Following& f, Decode& d, int64_t spin_ns, StreamsPlan& plan) {
    const int64_t size = waiting_frame(f, spin_ns);
    for (int s = 0; size && s < f.count; ++s) {
        const DecodeShape& shape = f.shapes[s];
        if (!read_streams(f.frame + 4, size, f.ranks, shape.of_ranks, shape.rows, plan)) continue;
        if (!take_tables(d, plan)) return 0;
        f.current = s;
        take_shape(d, shape);
        memcpy(f.columns, plan.columns, size_t(d.rows * kRowBytes));  // they need not be aligned in the frame
        d.columns = f.columns;
        return size + 4;
    }
    return 0;
}

}  // namespace weft

// 0: the frame that waits is for Python, or the other end is gone; kUnchosen: so it is, and its step has run; otherwise what
// the exchange gave that failed.
WEFT_C int weft_decode_follow(weft::Program* program, weft::Decode* decode, weft::Following* following) {
    weft::Following& f = *following;
    f.steps = f.counted = f.busy_ns = 0, f.current = -1;
    for (;;) {
        weft::StreamsPlan plan;
        const int64_t frame = weft::take_frame(f, *decode, program->pool()->spin_ns(), plan);
        if (!frame) return 0;
        const int code = weft::follow_step(program, *decode, f, plan);
        if (code) return code == weft::kBeyondTables ? 0 : code;
        if (recv(f.fd, f.frame, size_t(frame), 0) != frame) return 0;
        if (!f.reports) continue;
        if (!weft::send_all(f.fd, f.answer, weft::write_answer(plan.index, decode->chosen, decode->rows, f.answer))) return 0;
    }
}
WEFT_C int weft_step_record_bytes(int which) { return weft::RECORD_BYTES[which]; }
