// Instructions that move rows: between ranks through the library `comm`, and copies inside one. The twin of
// weft/compute/comm/redistribute.py; which area goes where was worked out when the program was recorded.
#pragma once

#include <string.h>

#include <algorithm>

#include "runtime/instruction.h"
#include "kernels/common/simd.h"
#include "kernels/moe/routed.h"

namespace weft {

// The numbers by which library `comm` knows dtypes (runtime/comm/sums.h).
inline int comm_dtype(int dtype) {
    switch (dtype) {
        case F32: return 0;
        case F64: return 1;
        case BF16: return 2;
        default: return 5;
    }
}

// Areas of one operand in this step. Operands of exchanges have no gap between rows. `rows`: of an operand in which the
// columns of each area lie together, for all rows, after those of the areas before; else 0.
class Parts {
public:
    Parts(const Operand& operand, void* base, const int64_t* starts, int first_run, int64_t rows)
        : base_(static_cast<char*>(base)), starts_(starts), first_run_(first_run), item_(item_bytes(operand.dtype)),
          row_(operand.columns * int64_t(item_)), rows_(rows) {}

    int64_t rows(const Area& a) const { return a.present ? starts_[a.hi] - starts_[a.lo] : 0; }
    int64_t width(const Area& a) const { return (a.right - a.left) * int64_t(item_); }
    uint64_t bytes(const Area& a) const { return rows(a) * width(a); }
    int64_t step(const Area& a) const { return rows_ ? width(a) : row_; }
    char* at(const Area& a) const {
        return base_ + (starts_[a.lo] - starts_[first_run_]) * step(a) + std::max<int64_t>(rows_, 1) * a.left * item_;
    }

    // The area's bytes as one contiguous range: in place, or copied to `room`, which advances.
    char* gathered(const Area& a, char*& room) const {
        if (!a.present) return room;
        if (a.whole) return at(a);
        char* to = room;
        copy_rows(to, width(a), at(a), row_, rows(a), width(a));
        room += bytes(a);
        return to;
    }
    char* place_for(const Area& a, char*& room) const {
        if (!a.present) return room;
        if (a.whole) return at(a);
        char* to = room;
        room += bytes(a);
        return to;
    }
    void scatter(const Area& a, const char* from) const {
        if (a.present && !a.whole) copy_rows(at(a), row_, from, width(a), rows(a), width(a));
    }
    void copy(const Area& mine, const Parts& from, const Area& theirs) const {
        copy_rows(at(mine), step(mine), from.at(theirs), from.step(theirs), rows(mine), width(mine));
    }

private:
    static void copy_rows(char* to, int64_t to_row, const char* from, int64_t from_row, int64_t rows, int64_t bytes) {
        for (int64_t r = 0; r < rows; ++r) memcpy(to + r * to_row, from + r * from_row, bytes);
    }

    char* base_;
    const int64_t* starts_;
    int first_run_, item_;
    int64_t row_, rows_;
};

struct Exchanged {
    int code = 0;
    uint64_t received = 0;  // bytes from other ranks; an all_reduce counts as reduce_scatter and all_gather
};

// Rows of a pipeline stage to the next one, or from the one before. What has no rows is not sent.
inline Exchanged run_message(const Instruction& i, const Step& step, const CommCalls& comm) {
    const uint64_t bytes = uint64_t(step.rows[i.rows]) * uint64_t(i.out.columns) * uint64_t(item_bytes(i.out.dtype));
    const uint32_t group = uint32_t(i.n[GROUP]);
    char* const rows = static_cast<char*>(i.out.base);
    if (!bytes) return {};
    if (i.op == SEND) return {comm.send(comm.handle, group, rows, bytes, comm_dtype(i.out.dtype)), 0};
    return {comm.recv(comm.handle, group, rows, bytes, comm_dtype(i.out.dtype)), bytes};
}

inline void* input_of(const Instruction& i, const Step& step) {
    return i.in[0].base ? i.in[0].base : const_cast<int64_t*>(step.ids);
}

inline Exchanged run_exchange(const Instruction& i, const Step& step, const CommCalls& comm) {
    const Exchange& x = *static_cast<const Exchange*>(i.p[EXCHANGE]);
    const int64_t* starts = step.starts[x.table];
    const int dtype = comm_dtype(i.in[0].dtype), n = x.members;
    const bool apart = i.op == PARTIALS;
    const Parts in(i.in[0], input_of(i, step), starts, x.in_base, apart ? starts[x.in_end] - starts[x.in_base] : 0);
    const Parts out(i.out, i.out.base, starts, x.out_base, apart ? step.rows[i.rows] : 0);
    char *sent = static_cast<char*>(x.sent), *taken = static_cast<char*>(x.taken);
    char *xs[MAX_MEMBERS], *outs[MAX_MEMBERS];
    uint64_t sends[MAX_MEMBERS] = {}, takes[MAX_MEMBERS] = {};
    Exchanged done;
    const uint64_t whole = step.rows[i.rows] * uint64_t(i.in[0].columns);
    if (i.op == ALL_REDUCE) {
        char* at = static_cast<char*>(i.in[0].base);
        done.received = 2 * whole * item_bytes(i.in[0].dtype) * (n - 1) / n;
        done.code = comm.all_reduce(comm.handle, x.group, at, whole, dtype);
        return done;
    }
    if (x.sends)
        for (int m = 0; m < n; ++m) xs[m] = in.gathered(x.sends[m], sent), sends[m] = in.bytes(x.sends[m]);
    if (x.takes)
        for (int m = 0; m < n; ++m) {
            outs[m] = out.place_for(x.takes[m], taken), takes[m] = out.bytes(x.takes[m]);
            if (m != x.position) done.received += takes[m];
        }
    if (i.op == ALL_GATHER)
        done.code = comm.all_gather(comm.handle, x.group, static_cast<char*>(input_of(i, step)), outs, takes, dtype);
    else if (i.op == ALL_TO_ALL || i.op == PARTIALS) {
        if (x.keeps) out.copy(x.keep_to, in, x.keep_from);
        done.code = comm.all_to_all(comm.handle, x.group, xs, sends, outs, takes, dtype);
    } else {
        done.received = sends[x.position] * (n - 1);
        done.code = comm.reduce_scatter(comm.handle, x.group, xs, sends, static_cast<char*>(i.out.base), dtype);
    }
    for (int m = 0; x.takes && m < n && !done.code; ++m) out.scatter(x.takes[m], outs[m]);
    return done;
}

// Sends rows of in[0] to their members and receives theirs into out, with the sizes that `DISPATCH` found; KIND selects the
// sizes of what is sent, KIND + 1 of what is received.
inline Exchanged run_routed(const Instruction& i, const CommCalls& comm) {
    const int n = i.n[MEMBERS], kind = i.n[KIND];
    const Sizes send(i.p[COUNT], kind, n), take(i.p[COUNT], kind + 1, n);
    const int64_t bytes = i.in[0].columns * int64_t(item_bytes(i.in[0].dtype));
    char *xs[MAX_MEMBERS], *outs[MAX_MEMBERS];
    uint64_t sent[MAX_MEMBERS], taken[MAX_MEMBERS];
    Exchanged done;
    for (int m = 0; m < n; ++m) {
        xs[m] = static_cast<char*>(i.in[0].base) + send.at[m] * bytes, sent[m] = send.count[m] * bytes;
        outs[m] = static_cast<char*>(i.out.base) + take.at[m] * bytes, taken[m] = take.count[m] * bytes;
        if (m != i.n[POSITION]) done.received += taken[m];
    }
    done.code = comm.all_to_all(comm.handle, i.n[GROUP], xs, sent, outs, taken, comm_dtype(i.in[0].dtype));
    return done;
}

// A part of rows and columns as it is, or all of it in a wider dtype (bf16 to f32).
inline void copy(const Instruction& i, const Step& step, const TeamMember& me) {
    const EvenShare share = me.share(step.rows[i.rows]);
    char *from = static_cast<char*>(input_of(i, step)), *to = static_cast<char*>(i.out.base);
    if (i.in[0].dtype == BF16 && i.out.dtype == F32) {
        const int size = i.out.columns;
        for (int64_t r = share.begin; r < share.end; ++r)
            each_vector<float>(size, [&](int c, int left) {
                give(row_of<float>(i.out, r) + c, take<float>(row_of<bf16>(i.in[0], r) + c, left), left);
            });
        return;
    }
    const int item = item_bytes(i.out.dtype);
    if (const Exchange* x = static_cast<const Exchange*>(i.p[EXCHANGE])) {
        const int64_t* starts = step.starts[x->table];
        const Area& a = x->sends[0];
        from += ((starts[a.lo] - starts[x->in_base]) * i.in[0].stride + a.left) * item;
    }
    for (int64_t r = share.begin; r < share.end; ++r)
        memcpy(to + r * i.out.stride * item, from + r * i.in[0].stride * item, i.out.columns * int64_t(item));
}

}  // namespace weft
