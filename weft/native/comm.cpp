// Collectives of the ranks of one machine over a shared memory region. Knows bytes and dtypes, no tensor.
//
// Every collective is a row of rounds. In a round each member writes to its own slot, arrives at the group's counter,
// waits until all have arrived and reads the others' slots. There are two slots a member, used in turn: whoever arrives
// at round r + 1 has read all of round r, so nobody overwrites what somebody still reads. Pointers come from
// weft/comm/shared_memory.py, which has checked them.

#include <sys/mman.h>
#include <sys/stat.h>

#include <new>

#include "comm_region.h"
#include "comm_sums.h"

namespace {

struct Call {
    Comm& c;
    Group& g;
    Head head;

    Call(Comm& comm, uint32_t group, uint32_t kind, int dtype, uint64_t bytes, uint64_t check)
        : c(comm), g(comm.groups[group]) {
        g.call++;
        head = {0, kind << 8 | static_cast<uint32_t>(dtype), g.call, 0, bytes, check};
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

}  // namespace

#pragma GCC visibility push(default)

extern "C" {

Comm* weft_comm_open(int fd, uint64_t size, uint32_t rank, uint32_t timeout_ms) {
    struct stat info;
    if (fstat(fd, &info) != 0 || static_cast<uint64_t>(info.st_size) != size || size < sizeof(Header)) return nullptr;
    void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (at == MAP_FAILED) return nullptr;
    char* base = static_cast<char*>(at);
    const Header& h = *reinterpret_cast<Header*>(base);
    Comm* c = h.magic == MAGIC && h.size == size && rank < h.world ? new (std::nothrow) Comm() : nullptr;
    if (c) c->groups = new (std::nothrow) Group[h.groups]();
    if (!c || !c->groups) {
        delete c;
        munmap(at, size);
        return nullptr;
    }
    c->base = base;
    c->size = size;
    c->piece = h.piece;
    c->rank = rank;
    c->world = h.world;
    c->group_count = h.groups;
    c->spin_ns = h.spin_us * 1000LL;
    c->timeout_ns = timeout_ms * 1'000'000LL;
    c->debug = h.debug != 0;
    c->states = reinterpret_cast<std::atomic<uint32_t>*>(base + h.states_at);
    c->lending = base + h.lending_at;
    c->lending_bytes = h.lending_bytes;
    c->record = reinterpret_cast<Record*>(base + h.records_at) + rank;
    c->record->pid = static_cast<uint32_t>(getpid());
    const GroupEntry* entries = reinterpret_cast<GroupEntry*>(base + h.groups_at);
    for (uint32_t i = 0; i < h.groups; i++) {
        const GroupEntry& e = entries[i];
        Group& g = c->groups[i];
        g.n = static_cast<uint32_t>(e.members);
        g.ranks = reinterpret_cast<uint32_t*>(base + e.members_at);
        g.counter = reinterpret_cast<Counter*>(base + e.counter_at);
        g.heads = reinterpret_cast<Head*>(base + e.heads_at);
        g.counts = reinterpret_cast<uint64_t*>(base + e.counts_at);
        g.texts = base + e.texts_at;
        g.slots = base + e.slots_at;
        g.me = static_cast<uint32_t>(std::find(g.ranks, g.ranks + g.n, rank) - g.ranks);
    }
    return c;
}

void weft_comm_close(Comm* c) {
    uint32_t alive = ALIVE;
    c->states[c->rank].compare_exchange_strong(alive, CLOSED);
    munmap(c->base, c->size);
    delete[] c->groups;
    delete c;
}

// What a debug run compares beside sizes: the call in words, put ahead of each collective.
void weft_comm_describe(Comm* c, const char* text) { strncpy(c->text, text, TEXT - 1); }

// From now on this rank lends `core` while it waits.
void weft_comm_lend(Comm* c, uint32_t core) { *lender_of(*c, c->rank, c->rank).core = core + 1; }

// What a rank's guests go by: every other rank into `lenders`; what this one computes.
weft::Computing* weft_comm_lenders(Comm* c, weft::Lender* lenders) {
    for (uint32_t rank = 0; rank < c->world; rank++)
        if (rank != c->rank) *lenders++ = lender_of(*c, rank, c->rank);
    return &computing(*c, c->rank);
}

// For how long this rank has lent its core.
const uint64_t* weft_comm_lent_ns(const Comm* c) { return &c->lent_ns; }

const Failure* weft_comm_failure(const Comm* c) { return &c->failure; }

int weft_comm_all_reduce(Comm* c, uint32_t group, char* x, uint64_t count, int dtype) {
    uint64_t bytes = count * item_bytes(dtype);
    Call call(*c, group, ALL_REDUCE, dtype, bytes, bytes);
    uint64_t at = 0;
    do {
        uint64_t length = std::min(c->piece, bytes - at);
        bool shares = call.g.n > 2 && length > SHARES_FROM;
        auto reduce = shares ? reduce_in_shares : reduce_directly;
        if (int code = reduce(call, x + at, length, dtype, at == 0)) return code;
        at += length;
    } while (at < bytes);
    return OK;
}

int weft_comm_all_gather(Comm* c, uint32_t group, const char* x, char* const* outs, const uint64_t* bytes, int dtype) {
    Group& g = c->groups[group];
    uint64_t mine = bytes[g.me], longest = *std::max_element(bytes, bytes + g.n);
    Call call(*c, group, ALL_GATHER, dtype, mine, 0);
    uint64_t at = 0;
    do {
        call.begin();
        uint64_t length = window(at, c->piece, mine);
        if (length) memcpy(call.theirs(g.me), x + at, length);
        if (int code = at == 0 ? call.first_round(bytes) : call.round()) return code;
        for (uint32_t i = 0; i < g.n; i++) {
            uint64_t m = window(at, c->piece, bytes[i]);
            if (i == g.me && outs[i] == x) continue;
            if (m && i == g.me) memmove(outs[i] + at, x + at, m);
            else if (m) memcpy(outs[i] + at, call.theirs(i), m);
        }
        at += c->piece;
    } while (at < longest);
    return OK;
}

int weft_comm_reduce_scatter(Comm* c, uint32_t group, const char* const* xs, const uint64_t* bytes, char* out, int dtype) {
    Group& g = c->groups[group];
    uint64_t part = c->piece / g.n / 64 * 64, longest = *std::max_element(bytes, bytes + g.n);
    Call call(*c, group, REDUCE_SCATTER, dtype, bytes[g.me], hash_counts(bytes, g.n));
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

int weft_comm_all_to_all(Comm* c, uint32_t group, const char* const* xs, const uint64_t* sent, char* const* outs,
                         const uint64_t* received, int dtype) {
    Group& g = c->groups[group];
    uint64_t part = c->piece / g.n / 64 * 64, longest = 0;
    for (uint32_t i = 0; i < g.n; i++)
        if (i != g.me) longest = std::max(longest, sent[i]);
    Call call(*c, group, ALL_TO_ALL, dtype, longest, 0);
    if (sent[g.me]) memmove(outs[g.me], xs[g.me], sent[g.me]);
    uint64_t at = 0;
    do {
        call.begin();
        if (at == 0) memcpy(call.counts_of(g.me), sent, g.n * sizeof(uint64_t));
        for (uint32_t i = 0; i < g.n; i++)
            if (uint64_t m = i == g.me ? 0 : window(at, part, sent[i])) memcpy(call.theirs(g.me) + i * part, xs[i] + at, m);
        if (int code = at == 0 ? call.first_round(nullptr) : call.round()) return code;
        for (uint32_t i = 0; i < g.n && at == 0; i++) {
            if (i == g.me) continue;
            uint64_t theirs = call.counts_of(i)[g.me];
            if (theirs != received[i]) return call.mismatch(i, theirs, received[i]);
            longest = std::max(longest, g.heads[2 * i + (g.round & 1)].bytes);  // the longest of all pairs: rounds of all
        }
        for (uint32_t i = 0; i < g.n; i++)
            if (uint64_t m = i == g.me ? 0 : window(at, part, received[i]))
                memcpy(outs[i] + at, call.theirs(i) + g.me * part, m);
        at += part;
    } while (at < longest);
    return OK;
}

int weft_comm_barrier(Comm* c, uint32_t group) {
    Call call(*c, group, BARRIER, 0, 0, 0);
    call.begin();
    return call.first_round(nullptr);
}

}  // extern "C"

#pragma GCC visibility pop
