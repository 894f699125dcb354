// The shared region's structs, the mirror of weft/compute/comm/shm/region.py, and waiting in it.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "runtime/futex.h"

namespace {

using weft::futex;
using weft::monotonic_ns;
using weft::relax;

constexpr uint64_t MAGIC = 0x314d4f4354464557;  // "WEFTCOM1"
constexpr int MAX_MEMBERS = 256, TEXT = 256;
constexpr int64_t SLICE_NS = 20'000'000;                                 // how soon a sleeper sees a rank marked dead
enum State : uint32_t { ALIVE = 0, DEAD = 1, GAVE_UP = 2, CLOSED = 3 };  // low byte; GAVE_UP + (rank blamed + 1) << 8
enum Code : int { OK = 0, PEER_DEAD = 1, PEER_GAVE_UP = 2, PEER_CLOSED = 3, TIMED_OUT = 4, MISMATCH = 5 };
enum Kind : uint32_t { ALL_REDUCE = 1, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, BARRIER, SEND, RECV };

struct Header {
    uint64_t magic, size, piece;
    uint32_t world, groups, spin_us, debug;
    uint64_t states_at, records_at, groups_at;
};
struct Record {  // one line a rank, written by it as it goes, read by the supervisor
    uint32_t kind, group, inside, pid;
    uint64_t calls, bytes, since_ns, pad[3];
};
struct GroupEntry {
    uint64_t members, members_at, counter_at, heads_at, counts_at, texts_at, slots_at, mail_at;  // mail_at 0: no mailboxes
};
struct Head {  // what a member brings to a round
    uint32_t round, kind_dtype, call, pad;
    uint64_t bytes, check;
    uint64_t unused[4];
};
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "futexes wait on the low half of a counter");
struct alignas(64) Counter {
    std::atomic<uint64_t> arrived;  // of all members in all rounds; 64 bits never wrap
    std::atomic<uint32_t> sleepers;
};
constexpr uint32_t LINK_ENDED = 1;
struct alignas(64) Mail {               // messages from one rank of a pair to the other: see mail.h
    std::atomic<uint64_t> sent, taken;  // messages so far
    std::atomic<uint32_t> receivers_asleep, senders_asleep;
    uint64_t boxes, room, boxes_at;  // how many messages there is room for, of how many bytes each
    std::atomic<uint32_t> lost;      // of a sender on another host: LINK_ENDED, or + 2 + the rank blamed where it gave up
};
struct Group {
    uint32_t n, me, call;
    bool spans;  // members are on several hosts: calls go over the wire
    uint64_t round;
    const uint32_t* ranks;
    Counter* counter;
    Head* heads;       // [member][parity]
    uint64_t* counts;  // [parity][member][member]
    char* texts;       // [parity][member][TEXT]
    char* slots;       // [member][parity][piece]
    Mail* mail;        // [member]: what it sends to the other; null where the group is no pair of stages
};
struct Failure {
    int32_t code, rank, blamed, missing_count;
    uint32_t my_kind_dtype, their_kind_dtype, my_call, their_call;
    uint64_t my_bytes, their_bytes;
    int32_t missing[MAX_MEMBERS];
    char my_text[TEXT], their_text[TEXT];
};
struct Wire;
struct Comm {
    char* base;
    uint64_t size, piece;
    uint32_t rank, world, group_count;
    int64_t spin_ns, timeout_ns;
    bool debug;
    std::atomic<uint32_t>* states;  // [world]
    Record* record;
    Group* groups;
    Failure failure;
    char text[TEXT];
    Wire* wire;                    // connections to ranks of other hosts; null: there are none
    void (*farewell)(Comm& comm);  // reports to connected ranks that this one fails; null: none
};

char* slot(const Comm& c, const Group& g, uint32_t member, uint32_t parity) {
    return g.slots + (2 * static_cast<uint64_t>(member) + parity) * c.piece;
}

// ---- waiting

uint32_t state_of(const Comm& c, uint32_t rank) { return c.states[rank].load(std::memory_order_acquire); }

// `blamed`: the rank that others report as the cause when they find this one gone.
int fail(Comm& c, int code, int32_t rank, int32_t blamed) {
    c.failure.code = code;
    c.failure.rank = rank;
    c.failure.blamed = blamed;
    uint32_t alive = ALIVE;
    c.states[c.rank].compare_exchange_strong(alive, GAVE_UP | static_cast<uint32_t>(blamed + 1) << 8);
    if (c.farewell) c.farewell(c);
    return code;
}

bool absent(const Group& g, uint32_t member) {
    return __atomic_load_n(&g.heads[2 * member + (g.round & 1)].round, __ATOMIC_ACQUIRE) != static_cast<uint32_t>(g.round);
}

struct Gone {
    int code;
    int32_t rank, blamed;
};

// A dead rank of the world ends every wait, member or not: what it was needed for will not come. One that closed does so
// only where this very round misses it. Dead comes first in the search: the others gave up because of it.
Gone find_gone(const Comm& c, const Group& g) {
    for (uint32_t wanted : {DEAD, GAVE_UP})
        for (uint32_t r = 0; r < c.world; r++) {
            uint32_t state = state_of(c, r);
            if (r == c.rank || (state & 255) != wanted) continue;
            int32_t rank = static_cast<int32_t>(r);
            if (wanted == DEAD) return {PEER_DEAD, rank, rank};
            return {PEER_GAVE_UP, rank, static_cast<int32_t>(state >> 8) - 1};
        }
    for (uint32_t i = 0; i < g.n; i++) {
        int32_t rank = static_cast<int32_t>(g.ranks[i]);
        if (i != g.me && absent(g, i) && state_of(c, g.ranks[i]) == CLOSED) return {PEER_CLOSED, rank, rank};
    }
    return {OK, -1, -1};
}

int timed_out(Comm& c, const Group& g) {
    Failure& f = c.failure;
    f.missing_count = 0;
    for (uint32_t i = 0; i < g.n; i++)
        if (i != g.me && absent(g, i)) f.missing[f.missing_count++] = static_cast<int32_t>(g.ranks[i]);
    int32_t first = f.missing_count ? f.missing[0] : -1;
    return fail(c, TIMED_OUT, first, first);
}

// Polls for `spin_ns`, or one slice at most; whether all members have arrived.
bool came(const Comm& c, const Group& g, uint64_t target) {
    const int64_t until = monotonic_ns() + std::min(c.spin_ns, SLICE_NS);
    while (monotonic_ns() < until) {
        if (g.counter->arrived.load(std::memory_order_acquire) >= target) return true;
        relax();
    }
    return false;
}

int wait_for_all(Comm& c, Group& g, uint64_t target) {
    Counter& k = *g.counter;
    const int64_t deadline = monotonic_ns() + c.timeout_ns;
    if (came(c, g, target)) return OK;
    for (;;) {
        Gone gone = find_gone(c, g);
        if (k.arrived.load(std::memory_order_acquire) >= target) return OK;  // it may have arrived here before it ended
        if (gone.code) return fail(c, gone.code, gone.rank, gone.blamed);
        int64_t left = deadline - monotonic_ns();
        if (left <= 0) return timed_out(c, g);
        timespec slice{0, static_cast<long>(std::min(left, SLICE_NS))};
        k.sleepers.fetch_add(1);
        uint64_t seen = k.arrived.load();
        if (seen < target) futex(&k.arrived, FUTEX_WAIT, static_cast<uint32_t>(seen), &slice);
        k.sleepers.fetch_sub(1);
        if (k.arrived.load(std::memory_order_acquire) >= target) return OK;
    }
}

// Ends the writing half of a round; returns when every member's slot can be read.
int meet(Comm& c, Group& g, const Head& mine) {
    Head& head = g.heads[2 * g.me + (g.round & 1)];
    head = mine;
    Counter& k = *g.counter;
    uint64_t target = g.n * g.round;
    if (k.arrived.fetch_add(1) + 1 == target) {
        if (k.sleepers.load()) futex(&k.arrived, FUTEX_WAKE, INT32_MAX);
        return OK;
    }
    return wait_for_all(c, g, target);
}

}  // namespace
