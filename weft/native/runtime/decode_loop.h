// Runs consecutive decode steps without Python: while each frame repeats the last step at the next position, the loop reads
// it, runs the step and answers. Any other frame, and a step whose tokens Python must sample, stays in the stream for Python.
// Reference: weft/worker/rank.py.
#pragma once

#include <errno.h>
#include <sys/socket.h>

#include "runtime/decode_step.h"
#include "runtime/frames.h"

namespace weft {

// A rank's record on the status page; weft/ipc/status.py.
struct Status {
    uint8_t phase, busy, kind, inside;
    uint32_t collective;
    uint64_t step, calls, since_ns;
    uint64_t busy_ns, rows, exchange_ns, received, steal_ns, pad[7];
};
static_assert(sizeof(Status) == 128, "as in weft/ipc/status.py");

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

// One step; what `decode_step` gives, or kUnchosen: it ran, and its tokens are not chosen.
inline int follow_step(Program* program, Step* step, Decode& d, Following& f) {
    Status& status = *f.status;
    const int64_t began = monotonic_ns(), waited = program->exchange_ns();
    const uint64_t received = program->received(), stolen = program->steal_ns();
    ++status.step, status.busy = 1;
    const int code = decode_step(program, step, d);
    if (code == kBeyondTables) --status.step, status.busy = 0;
    if (code) return code;
    const int64_t took = monotonic_ns() - began;
    f.busy_ns += took;
    if (!d.chose) return kUnchosen;
    status.busy_ns += took, status.rows += f.own_rows;
    status.exchange_ns += program->exchange_ns() - waited, status.received += program->received() - received;
    status.steal_ns += program->steal_ns() - stolen;
    status.busy = 0;
    ++f.steps;
    return 0;
}

// Reads the plan of the frame that waits, and gives the frame's bytes; 0 where it is none of these steps.
inline int64_t take_frame(const Following& f, Decode& d, int64_t spin_ns, uint64_t& index) {
    const int64_t size = waiting_frame(f, spin_ns);
    StreamsPlan plan;
    if (!size || !read_streams(f.frame + 4, size, f.ranks, f.rows, d.rows, plan) || !take_tables(d, plan)) return 0;
    memcpy(f.columns, plan.columns, size_t(d.rows * kRowBytes));  // they need not be aligned in the frame
    d.columns = f.columns, index = plan.index;
    return size + 4;
}

}  // namespace weft

// `step` and `decode` are those of the step that ran last. 0: the frame that waits is for Python, or the other end is gone;
// kUnchosen: so it is, and its step has run; otherwise what the exchange gave that failed.
WEFT_C int weft_decode_follow(weft::Program* program, weft::Step* step, weft::Decode* decode, weft::Following* following) {
    weft::Following& f = *following;
    for (f.steps = f.busy_ns = 0;;) {
        uint64_t index = 0;
        const int64_t frame = weft::take_frame(f, *decode, program->pool()->spin_ns(), index);
        if (!frame) return 0;
        const int code = weft::follow_step(program, step, *decode, f);
        if (code) return code == weft::kBeyondTables ? 0 : code;
        if (recv(f.fd, f.frame, size_t(frame), 0) != frame) return 0;
        if (!f.reports) continue;
        if (!weft::send_all(f.fd, f.answer, weft::write_answer(index, decode->chosen, decode->rows, f.answer))) return 0;
    }
}
WEFT_C int weft_step_record_bytes(int which) { return weft::RECORD_BYTES[which]; }
