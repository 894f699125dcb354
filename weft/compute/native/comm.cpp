// Collectives between the ranks of one machine in a shared memory region, on raw bytes and dtypes.
//
// A collective is a sequence of rounds. In a round each member writes its own slot, increments the group's arrival counter,
// waits until all members have arrived, and reads the others' slots. Each member has two slots, used in turn. A member that
// arrives at round r + 1 has read all of round r, so a slot is never overwritten while another rank still reads it. Pointers
// come from weft/compute/comm/shm/shared_memory.py, which has checked them.

#include <sys/mman.h>
#include <sys/stat.h>

#include <exception>
#include <new>

#include "runtime/comm/across.h"
#include "runtime/comm/mail.h"

#pragma GCC visibility push(default)

extern "C" {

Comm* weft_comm_open(int fd, uint64_t size, uint32_t rank, uint32_t timeout_ms) {
    struct stat info;
    if (fstat(fd, &info) != 0 || static_cast<uint64_t>(info.st_size) < size || size < sizeof(Header)) return nullptr;
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
        g.mail = e.mail_at ? reinterpret_cast<Mail*>(base + e.mail_at) : nullptr;
        g.me = static_cast<uint32_t>(std::find(g.ranks, g.ranks + g.n, rank) - g.ranks);
    }
    return c;
}

// Groups whose members `host_of` puts on several hosts call over connections from now on: fds[r] to rank r of the world,
// -1 where there is none. They are this object's, also where the result is not 0: a member that has no connection, + 1, or
// -1: no memory or no thread.
int weft_comm_connect(Comm* c, const int32_t* fds, const uint32_t* host_of) {
    c->wire = new (std::nothrow) Wire();
    if (!c->wire) return -1;
    c->wire->links.resize(c->world);
    c->wire->host_of.assign(host_of, host_of + c->world);
    for (uint32_t r = 0; r < c->world; r++) c->wire->links[r].fd = fds[r];
    c->farewell = say_giving_up;
    for (uint32_t i = 0; i < c->group_count; i++) {
        Group& g = c->groups[i];
        if (g.me == g.n) continue;
        for (uint32_t m = 0; m < g.n; m++) g.spans |= host_of[g.ranks[m]] != host_of[g.ranks[0]];
        for (uint32_t m = 0; g.spans && m < g.n; m++)
            if (m != g.me && fds[g.ranks[m]] < 0) return static_cast<int>(g.ranks[m]) + 1;
    }
    try {
        start_readers(*c);
    } catch (const std::exception&) {
        return -1;
    }
    return 0;
}

void weft_comm_close(Comm* c) {
    uint32_t alive = ALIVE;
    c->states[c->rank].compare_exchange_strong(alive, CLOSED);
    if (c->wire) {
        end_readers(*c);
        for (const Link& link : c->wire->links)
            if (link.fd >= 0) close(link.fd);
        delete c->wire;
    }
    munmap(c->base, c->size);
    delete[] c->groups;
    delete c;
}

// What a debug run compares beside sizes: the call in words, put ahead of each collective.
void weft_comm_describe(Comm* c, const char* text) { strncpy(c->text, text, TEXT - 1); }

const Failure* weft_comm_failure(const Comm* c) { return &c->failure; }

int weft_comm_all_reduce(Comm* c, uint32_t group, char* x, uint64_t count, int dtype) {
    uint64_t bytes = count * item_bytes(dtype);
    Call call(*c, group, ALL_REDUCE, dtype, bytes, bytes);
    if (call.g.spans) return wire_all_reduce(call, x, bytes, dtype);
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
    Call call(*c, group, ALL_GATHER, dtype, bytes[c->groups[group].me], 0);
    if (call.g.spans) return wire_all_gather(call, x, outs, bytes);
    return gather_through_slots(call, x, outs, bytes);
}

int weft_comm_reduce_scatter(Comm* c, uint32_t group, const char* const* xs, const uint64_t* bytes, char* out, int dtype) {
    Group& g = c->groups[group];
    Call call(*c, group, REDUCE_SCATTER, dtype, bytes[g.me], hash_counts(bytes, g.n));
    if (g.spans) return wire_reduce_scatter(call, xs, bytes, out, dtype);
    return scatter_through_slots(call, xs, bytes, out, dtype);
}

int weft_comm_all_to_all(Comm* c, uint32_t group, const char* const* xs, const uint64_t* sent, char* const* outs,
                         const uint64_t* received, int dtype) {
    Group& g = c->groups[group];
    uint64_t part = c->piece / g.n / 64 * 64, longest = 0;
    for (uint32_t i = 0; i < g.n; i++)
        if (i != g.me) longest = std::max(longest, sent[i]);
    Call call(*c, group, ALL_TO_ALL, dtype, longest, 0);
    if (sent[g.me]) memmove(outs[g.me], xs[g.me], sent[g.me]);
    if (g.spans) return wire_all_to_all(call, xs, sent, outs, received);
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
    if (call.g.spans) return wire_barrier(call);
    call.begin();
    return call.first_round(nullptr);
}

int weft_comm_send(Comm* c, uint32_t group, const char* x, uint64_t bytes, int dtype) {
    Call call(*c, group, SEND, dtype, bytes, 0);
    return put_mail(call, x, bytes);
}

int weft_comm_recv(Comm* c, uint32_t group, char* x, uint64_t bytes, int dtype) {
    Call call(*c, group, RECV, dtype, bytes, 0);
    return take_mail(call, x, bytes);
}

}  // extern "C"

#pragma GCC visibility pop
