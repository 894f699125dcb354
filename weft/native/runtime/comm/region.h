// The shared region's structs, the mirror of weft/comm/shm/region.py, and waiting in it.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "runtime/stealing/steal_port.h"
#include "runtime/futex.h"

namespace {

using weft::futex;
using weft::monotonic_ns;
using weft::relax;

constexpr uint64_t MAGIC = 0x314d4f4354464557;  // "WEFTCOM1"
constexpr int MAX_MEMBERS = 256, TEXT = 256;
constexpr int64_t HELPERS_SLICE_NS = 1'000'000;  // how soon one sees what a rank has open that had nothing for a while
constexpr int LOOKS = 4;                  // looks at the counter before it steals: a rank that is about to arrive needs no help
constexpr int64_t SLICE_NS = 20'000'000;  // how soon a sleeper sees a rank marked dead
enum State : uint32_t { ALIVE = 0, DEAD = 1, GAVE_UP = 2, CLOSED = 3 };  // low byte; GAVE_UP + (rank blamed + 1) << 8
enum Code : int { OK = 0, PEER_DEAD = 1, PEER_GAVE_UP = 2, PEER_CLOSED = 3, TIMED_OUT = 4, MISMATCH = 5 };
enum Kind : uint32_t { ALL_REDUCE = 1, ALL_GATHER, REDUCE_SCATTER, ALL_TO_ALL, BARRIER, SEND, RECV };

struct Header {
    uint64_t magic, size, piece;
    uint32_t world, groups, spin_us, debug;
    uint64_t states_at, records_at, groups_at, ports_at, ports_bytes, rooms_at, room_bytes;
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
    char* ports;                    // [world][ports_bytes]: each rank's published instruction and its thieves
    uint64_t ports_bytes;
    weft::Steal steal;  // null: this rank does not steal
    uint64_t* seen;     // [world]: the last published instruction of each rank that this one has run
    uint64_t steal_ns;  // time for which this rank has run stolen units
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

weft::StealPort& port_of(const Comm& c, uint32_t rank) {
    return *reinterpret_cast<weft::StealPort*>(c.ports + rank * c.ports_bytes);
}

// Of every rank that may be at work on what `rank` has open.
weft::ThiefSlot* thieves_of(const Comm& c, uint32_t rank) { return reinterpret_cast<weft::ThiefSlot*>(&port_of(c, rank) + 1); }

// The rank that delays `rank`: a thief that has not finished stolen units, or `rank` itself.
int32_t held_up_by(const Comm& c, uint32_t rank) {
    for (uint32_t other = 0; other < c.world; other++)
        if (thieves_of(c, rank)[other].inside.load(std::memory_order_relaxed)) return static_cast<int32_t>(other);
    return static_cast<int32_t>(rank);
}

int timed_out(Comm& c, const Group& g) {
    Failure& f = c.failure;
    f.missing_count = 0;
    for (uint32_t i = 0; i < g.n; i++)
        if (i != g.me && absent(g, i)) f.missing[f.missing_count++] = held_up_by(c, g.ranks[i]);
    int32_t first = f.missing_count ? f.missing[0] : -1;
    return fail(c, TIMED_OUT, first, first);
}

struct Opened {
    bool any, ran;
};

// Runs some of what `rank` has open, if anything, unless this rank has run some of it already.
Opened run_open_of(Comm& c, uint32_t rank) {
    weft::StealPort& port = port_of(c, rank);
    const uint64_t open = port.open.load(std::memory_order_relaxed);
    if (!open || open == c.seen[rank]) return {open != 0, false};
    return {true, c.steal(&port, thieves_of(c, rank) + c.rank, &c.seen[rank]) != 0};
}

// Runs some of what members that have not come have open; whether any of them has something open.
bool steal_from_absent(Comm& c, const Group& g) {
    bool any = false;
    for (uint32_t i = 0; c.steal && i < g.n; i++) {
        if (i == g.me || !absent(g, i)) continue;
        const int64_t began = monotonic_ns();
        const Opened opened = run_open_of(c, g.ranks[i]);
        if (opened.ran) c.steal_ns += static_cast<uint64_t>(monotonic_ns() - began);
        any |= opened.any;
    }
    return any;
}

// Polls until all members have arrived. Steals units of absent members; gives up after `spin_ns` without anything to steal,
// or after one slice.
bool came(Comm& c, const Group& g, uint64_t target) {
    const int64_t entered = monotonic_ns();
    int64_t began = entered, now = entered;
    do {
        for (int i = 0; i < LOOKS; i++) {
            if (g.counter->arrived.load(std::memory_order_acquire) >= target) return true;
            relax();
        }
        const bool open = steal_from_absent(c, g);
        now = monotonic_ns();
        if (open) began = now;
    } while (now - began < c.spin_ns && now - entered < SLICE_NS);
    return false;
}

int wait_for_all(Comm& c, Group& g, uint64_t target) {
    Counter& k = *g.counter;
    const int64_t deadline = monotonic_ns() + c.timeout_ns;
    for (bool awake = c.spin_ns > 0;;) {
        if (awake && came(c, g, target)) return OK;
        Gone gone = find_gone(c, g);
        if (k.arrived.load(std::memory_order_acquire) >= target) return OK;  // it may have arrived here before it ended
        if (gone.code) return fail(c, gone.code, gone.rank, gone.blamed);
        int64_t left = deadline - monotonic_ns();
        if (left <= 0) return timed_out(c, g);
        if ((awake = steal_from_absent(c, g))) continue;
        timespec slice{0, static_cast<long>(std::min(left, c.steal ? HELPERS_SLICE_NS : SLICE_NS))};
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
