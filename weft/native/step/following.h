// Decode steps that follow one another: as long as a rank is told to run the step that it ran last, one position further,
// it goes from step to step of a plan, and from frame to frame, without Python. A frame that is anything else stays where
// it is, for Python to read; so does one with a step whose tokens Python has to choose. Answer key: weft/worker/rank.py.
#pragma once

#include <errno.h>
#include <sys/socket.h>

#include "decode.h"
#include "frames.h"

namespace weft {

// A rank's record on the status page; weft/ipc/status.py.
struct Status {
    uint8_t phase, busy, kind, inside;
    uint32_t collective;
    uint64_t step, calls, since_ns;
    uint64_t busy_ns, rows, exchange_ns, received, lent_ns, pad[7];
};
static_assert(sizeof(Status) == 128, "as in weft/ipc/status.py");

// What ranks agree on through a page that they share, whether another step of a plan follows whose steps are answered one
// by one: the first rank decides. Answer key: weft/ipc/agreed.py.
struct Agreed {
    uint64_t stop;     // 1 + the index of the plan of which the engine wants no further step
    uint64_t decided;  // index of the last step of a plan, but for the first one, that was decided to run
    uint64_t stopped;  // 1 + the index of the last plan that was ended
};

struct Following {
    int32_t fd;             // a stream of frames, each behind its length
    int32_t group, groups;  // this rank's attention-dp group, of how many
    int32_t reports;        // whether it answers
    const int64_t* rows;    // [groups]: of the step
    int64_t own_rows;       // those that this rank counts as its own
    Status* status;
    uint8_t* frame;  // room for a frame and its length; of longer ones no step here is made
    int64_t frame_room;
    int64_t* columns;        // room for [3, slots]: of the plan's step that was begun last
    uint8_t* answer;         // room for all ids and kAnswerRoom
    int64_t steps, busy_ns;  // results: steps that were run, and nanoseconds inside them
    int64_t most;            // steps of one plan that there is room for
    int64_t* ids;            // room for [most, slots]: of the plan in hand, step by step
    // The plan in hand, which either side may go on with: how many of its steps have run and have their tokens, how many
    // are left, its index, ids behind which no further one runs, and whether its frame still waits to be read.
    int64_t done, left;
    uint64_t index;
    int64_t* ends;
    int64_t ends_room, ends_count;
    Agreed* agreed;
    int64_t first;        // whether it is this rank that decides
    int32_t waits, each;  // `each`: its steps are answered one by one
};

constexpr timespec kLook{0, 20'000};  // between two looks of who has waited for long

// Whether the next step of the plan in hand is to run, for all ranks alike.
inline bool goes_on(const Following& f, int64_t spin_ns) {
    Agreed& agreed = *f.agreed;
    const uint64_t next = f.index + uint64_t(f.done);
    if (f.first) {
        const bool stop = __atomic_load_n(&agreed.stop, __ATOMIC_ACQUIRE) == f.index + 1;
        __atomic_store_n(stop ? &agreed.stopped : &agreed.decided, stop ? f.index + 1 : next, __ATOMIC_RELEASE);
        return !stop;
    }
    for (const int64_t began = monotonic_ns();;) {
        const bool stopped = __atomic_load_n(&agreed.stopped, __ATOMIC_ACQUIRE) == f.index + 1;
        if (__atomic_load_n(&agreed.decided, __ATOMIC_ACQUIRE) - next < uint64_t(f.most)) return true;
        if (stopped) return false;
        if (monotonic_ns() - began < spin_ns) relax();
        else nanosleep(&kLook, nullptr);
    }
}

// A rank that answers nobody has nothing to do before the next frame, and looks for it for a while: it need not be woken
// then, and the others need not wait for that.
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
    const uint64_t received = program->received(), lent = program->lent_ns();
    ++status.step, status.busy = 1;
    const int code = decode_step(program, step, d);
    if (code == kBeyondTables) --status.step, status.busy = 0;
    if (code) return code;
    const int64_t took = monotonic_ns() - began;
    f.busy_ns += took;
    if (!d.chose) return kUnchosen;
    status.busy_ns += took, status.rows += f.own_rows;
    status.exchange_ns += program->exchange_ns() - waited, status.received += program->received() - received;
    status.lent_ns += program->lent_ns() - lent;
    status.busy = 0;
    ++f.steps;
    return 0;
}

// The plan of the frame that waits is in hand then, and the frame's bytes are given; 0 where it is none of these steps.
inline int64_t take_frame(Following& f, Decode& d, int64_t spin_ns) {
    const int64_t size = waiting_frame(f, spin_ns);
    StreamsPlan plan;
    if (!size || !read_streams(f.frame + 4, size, f.groups, f.rows, f.group, plan)) return 0;
    if (plan.further >= uint64_t(f.most) || plan.ends_count > f.ends_room || !take_tables(d, plan)) return 0;
    memcpy(f.columns, plan.columns, size_t(d.rows * kRowBytes));
    if (plan.ends_count) memcpy(f.ends, plan.ends, size_t(plan.ends_count * 8));
    f.index = plan.index, f.done = 0, f.left = 1 + int64_t(plan.further), f.ends_count = plan.ends_count, f.waits = 1;
    f.each = plan.each;
    return size + 4;
}

// Every row one position further.
inline void move_on(int64_t* columns, int64_t rows) {
    for (int64_t i = rows; i < 3 * rows; ++i) ++columns[i];
}

inline bool ends_any(const Following& f, const int64_t* ids, int64_t rows) {
    return std::find_first_of(ids, ids + rows, f.ends, f.ends + f.ends_count) != ids + rows;
}

// Whether it was sent: what the last `steps` steps gave.
inline bool answer(const Following& f, int64_t steps, int64_t rows) {
    const int64_t first = f.done - steps;
    return send_all(f.fd, f.answer,
                    write_answer(f.index + uint64_t(first), f.ids + first * rows, steps * rows, f.left, f.answer));
}

// Steps of the plan in hand until none is left; as `follow_step` where one is for Python.
inline int follow_plan(Program* program, Step* step, Decode& d, Following& f) {
    while (f.left) {
        if (f.done) move_on(f.columns, d.rows);
        d.columns = f.columns;
        if (const int code = follow_step(program, step, d, f)) return code;
        memcpy(f.ids + f.done * d.rows, d.chosen, size_t(d.rows) * sizeof *f.ids);
        ++f.done, --f.left;
        if (ends_any(f, d.chosen, d.rows) || (f.left && f.each && !goes_on(f, program->pool()->spin_ns()))) f.left = 0;
        if (f.each && f.reports && !answer(f, 1, d.rows)) f.left = 0;  // nobody is there any more
    }
    return 0;
}

}  // namespace weft

// `step` and `decode` are those of the step that ran last. 0: the plan in hand (or the frame that waits, where there is none)
// is for Python to go on with, or the other end is gone; kUnchosen: so it is, and its next step has run; otherwise what the
// exchange gave that failed.
WEFT_C int weft_decode_follow(weft::Program* program, weft::Step* step, weft::Decode* decode, weft::Following* following) {
    weft::Following& f = *following;
    for (f.steps = f.busy_ns = 0;;) {
        const int64_t frame = f.left ? 0 : weft::take_frame(f, *decode, program->pool()->spin_ns());
        if (!f.left) return 0;
        const int code = weft::follow_plan(program, step, *decode, f);
        if (code) return code == weft::kBeyondTables ? 0 : code;
        if (frame && recv(f.fd, f.frame, size_t(frame), 0) != frame) return 0;
        f.waits = 0;
        if (f.reports && !f.each && !weft::answer(f, f.done, decode->rows)) return 0;
    }
}
WEFT_C int weft_step_record_bytes(int which) {
    const size_t sizes[] = {sizeof(weft::Instruction), sizeof(weft::Step),      sizeof(weft::Weight), sizeof(weft::Exchange),
                            sizeof(weft::Area),        sizeof(weft::CommCalls), sizeof(weft::Decode), sizeof(weft::Following),
                            sizeof(weft::Screen),      sizeof(weft::Offering)};
    return int(sizes[which]);
}
