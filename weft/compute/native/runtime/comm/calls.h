// What collectives are made of: a call and its rounds, sums and exchanges through the members' slots.
#pragma once

#include <algorithm>

#include "runtime/comm/region.h"
#include "runtime/comm/sums.h"

namespace {

struct Call {
    Comm& c;
    Group& g;
    Head head;

    Call(Comm& comm, uint32_t group, uint32_t kind, int dtype, uint64_t bytes, uint64_t check)
        : c(comm), g(comm.groups[group]) {
        g.call++;
        head = {0, kind << 8 | static_cast<uint32_t>(dtype), g.call, 0, bytes, check, {}};
        Record& r = *c.record;
        r.kind = kind;
        r.group = group;
        r.calls = g.call;
        r.bytes = bytes;
        r.since_ns = static_cast<uint64_t>(monotonic_ns());
        r.inside = 1;
    }
    ~Call() {
        if (c.failure.code == OK) c.record->inside = 0;
    }

    void begin() { ++g.round; }

    char* theirs(uint32_t member) const { return slot(c, g, member, g.round & 1); }

    int round() {
        head.round = static_cast<uint32_t>(g.round);
        return meet(c, g, head);
    }

    char* text_of(uint32_t member) { return g.texts + ((g.round & 1) * g.n + member) * static_cast<uint64_t>(TEXT); }

    uint64_t* counts_of(uint32_t member) { return g.counts + ((g.round & 1) * g.n + member) * static_cast<uint64_t>(g.n); }

    // The first round also compares what the members brought. `expected[i]`: bytes that member i must bring, or null.
    int first_round(const uint64_t* expected) {
        if (c.debug) memcpy(text_of(g.me), c.text, TEXT);
        if (int code = round()) return code;
        for (uint32_t i = 0; i < g.n; i++) {
            if (i == g.me) continue;
            const Head& other = g.heads[2 * i + (g.round & 1)];
            bool same = other.kind_dtype == head.kind_dtype && other.call == head.call && other.check == head.check;
            if (same && expected) same = other.bytes == expected[i];
            if (same && c.debug) same = memcmp(text_of(i), text_of(g.me), TEXT) == 0;
            if (!same) return mismatch(i, other.bytes, head.bytes);
        }
        return OK;
    }

    int mismatch(uint32_t member, uint64_t their_bytes, uint64_t my_bytes) {
        const Head& other = g.heads[2 * member + (g.round & 1)];
        Failure& f = c.failure;
        f.my_kind_dtype = head.kind_dtype;
        f.my_call = head.call;
        f.my_bytes = my_bytes;
        f.their_kind_dtype = other.kind_dtype;
        f.their_call = other.call;
        f.their_bytes = their_bytes;
        memset(f.my_text, 0, TEXT);
        memset(f.their_text, 0, TEXT);
        if (c.debug) {
            memcpy(f.my_text, text_of(g.me), TEXT);
            memcpy(f.their_text, text_of(member), TEXT);
        }
        int32_t rank = static_cast<int32_t>(g.ranks[member]);
        return fail(c, MISMATCH, rank, rank);
    }
};

uint64_t hash_counts(const uint64_t* counts, uint32_t n) {
    uint64_t h = 1469598103934665603ULL;
    for (uint32_t i = 0; i < n; i++) h = (h ^ counts[i]) * 1099511628211ULL;
    return h;
}

uint64_t window(uint64_t at, uint64_t length, uint64_t total) { return at >= total ? 0 : std::min(length, total - at); }

// Every member adds up all of the piece.
int reduce_directly(Call& call, char* x, uint64_t bytes, int dtype, bool first) {
    Group& g = call.g;
    call.begin();
    memcpy(call.theirs(g.me), x, bytes);
    if (int code = first ? call.first_round(nullptr) : call.round()) return code;
    const char* from[MAX_MEMBERS];
    for (uint32_t i = 0; i < g.n; i++) from[i] = call.theirs(i);
    ordered_sum(x, from, g.n, bytes / item_bytes(dtype), dtype);
    return OK;
}

// Every member adds up its share of the piece and hands the sums out in a second round: less to read from three on.
int reduce_in_shares(Call& call, char* x, uint64_t bytes, int dtype, bool first) {
    Group& g = call.g;
    call.begin();
    memcpy(call.theirs(g.me), x, bytes);
    if (int code = first ? call.first_round(nullptr) : call.round()) return code;
    uint64_t share = ((bytes + g.n - 1) / g.n + 63) / 64 * 64;
    uint64_t lo = share * g.me, mine = window(lo, share, bytes);
    const char* from[MAX_MEMBERS];
    for (uint32_t i = 0; i < g.n; i++) from[i] = call.theirs(i) + lo;
    call.begin();
    if (mine) ordered_sum(call.theirs(g.me) + lo, from, g.n, mine / item_bytes(dtype), dtype);
    if (int code = call.round()) return code;
    for (uint32_t i = 0; i < g.n; i++)
        memcpy(x + std::min(share * i, bytes), call.theirs(i) + share * i, window(share * i, share, bytes));
    return OK;
}

constexpr uint64_t SHARES_FROM = 32 << 10;  // bytes

int gather_through_slots(Call& call, const char* x, char* const* outs, const uint64_t* bytes) {
    Group& g = call.g;
    const uint64_t piece = call.c.piece, mine = bytes[g.me], longest = *std::max_element(bytes, bytes + g.n);
    uint64_t at = 0;
    do {
        call.begin();
        uint64_t length = window(at, piece, mine);
        if (length) memcpy(call.theirs(g.me), x + at, length);
        if (int code = at == 0 ? call.first_round(bytes) : call.round()) return code;
        for (uint32_t i = 0; i < g.n; i++) {
            uint64_t m = window(at, piece, bytes[i]);
            if (i == g.me && outs[i] == x) continue;
            if (m && i == g.me) memmove(outs[i] + at, x + at, m);
            else if (m) memcpy(outs[i] + at, call.theirs(i), m);
        }
        at += piece;
    } while (at < longest);
    return OK;
}

int scatter_through_slots(Call& call, const char* const* xs, const uint64_t* bytes, char* out, int dtype) {
    Group& g = call.g;
    uint64_t part = call.c.piece / g.n / 64 * 64, longest = *std::max_element(bytes, bytes + g.n);
    const char* from[MAX_MEMBERS];
    uint64_t at = 0;
    do {
        call.begin();
        for (uint32_t i = 0; i < g.n; i++)
            if (uint64_t m = i == g.me ? 0 : window(at, part, bytes[i])) memcpy(call.theirs(g.me) + i * part, xs[i] + at, m);
        if (int code = at == 0 ? call.first_round(nullptr) : call.round()) return code;
        for (uint32_t i = 0; i < g.n; i++) from[i] = i == g.me ? xs[i] + at : call.theirs(i) + g.me * part;
        if (uint64_t m = window(at, part, bytes[g.me])) ordered_sum(out + at, from, g.n, m / item_bytes(dtype), dtype);
        at += part;
    } while (at < longest);
    return OK;
}

}  // namespace
