// Collectives of groups whose members are on several hosts, over the wire. Sums are added in rank order over all hosts,
// never as sums of hosts' sums: every form gives the bits of `ordered_sum` over all members.
#pragma once

#include "runtime/comm/calls.h"
#include "runtime/comm/wire.h"

namespace {

// A call over the wire: in each phase of each piece one message to each of some members, and one from it.
struct Across {
    Call& call;
    Comm& c;
    Group& g;
    std::vector<Transfer> transfers;
    uint32_t pieces = 0, phase = 0;

    explicit Across(Call& of) : call(of), c(of.c), g(of.g) {}

    void begin(uint32_t number) { phase = number; }

    void add(uint32_t member, const char* out, uint64_t out_bytes, char* in, uint64_t in_bytes) {
        Transfer t{member, out, out_bytes, in, in_bytes};
        t.mine = {call.head.kind_dtype,
                  static_cast<uint32_t>(&g - c.groups),
                  call.head.call,
                  pieces << 2 | phase,
                  out_bytes,
                  call.head.check,
                  {}};
        if (c.debug) memcpy(t.mine.text, c.text, TEXT);
        transfers.push_back(t);
    }

    int run() {
        const int code = exchange(c, g, transfers);
        transfers.clear();
        return code;
    }

    // Memory for `bytes`, valid until the next call of this function.
    char* buffer(uint64_t bytes) {
        if (c.wire->buffer.size() < bytes) c.wire->buffer.resize(bytes);
        return c.wire->buffer.data();
    }
};

// Every member gets all of the piece from every other one and adds it up: one hop.
int wire_reduce_directly(Across& a, char* x, uint64_t bytes, int dtype) {
    const Group& g = a.g;
    a.begin(0);
    char* at = a.buffer(bytes * (g.n - 1));
    const char* from[MAX_MEMBERS];
    for (uint32_t i = 0; i < g.n; i++) {
        from[i] = i == g.me ? x : at;
        if (i == g.me) continue;
        a.add(i, x, bytes, at, bytes);
        at += bytes;
    }
    if (int code = a.run()) return code;
    ordered_sum(x, from, g.n, bytes / item_bytes(dtype), dtype);
    return OK;
}

struct Span {
    uint64_t lo, bytes;
};

// Part `index` of `parts` of so many bytes, in whole cache lines.
Span part_of(uint64_t bytes, uint32_t parts, uint32_t index) {
    const uint64_t share = ((bytes + parts - 1) / parts + 63) / 64 * 64, lo = std::min(share * index, bytes);
    return {lo, std::min(share, bytes - lo)};
}

// Every member adds up its share and hands the sums out: two hops, and fewer bytes from three members on.
int wire_reduce_in_shares(Across& a, char* x, uint64_t bytes, int dtype) {
    const Group& g = a.g;
    const Span own = part_of(bytes, g.n, g.me);
    a.begin(0);
    char* at = a.buffer(own.bytes * (g.n - 1));
    const char* from[MAX_MEMBERS];
    for (uint32_t i = 0; i < g.n; i++) {
        const Span theirs = part_of(bytes, g.n, i);
        from[i] = i == g.me ? x + own.lo : at;
        if (i == g.me) continue;
        a.add(i, x + theirs.lo, theirs.bytes, at, own.bytes);
        at += own.bytes;
    }
    if (int code = a.run()) return code;
    if (own.bytes) ordered_sum(x + own.lo, from, g.n, own.bytes / item_bytes(dtype), dtype);
    a.begin(1);
    for (uint32_t i = 0; i < g.n; i++) {
        const Span theirs = part_of(bytes, g.n, i);
        if (i != g.me) a.add(i, x + own.lo, own.bytes, x + theirs.lo, theirs.bytes);
    }
    return a.run();
}

// Where the members of a group are: hosts in the order of ranks, each with neighbouring members.
struct Places {
    uint32_t first[MAX_MEMBERS + 1];  // [host]: its first member; then n
    uint32_t hosts = 0, mine = 0, fewest = UINT32_MAX, most = 0;

    Places(const Comm& c, const Group& g) {
        for (uint32_t i = 0; i < g.n; i++) {
            if (i == 0 || c.wire->host_of[g.ranks[i]] != c.wire->host_of[g.ranks[i - 1]]) first[hosts++] = i;
            if (i == g.me) mine = hosts - 1;
        }
        first[hosts] = g.n;
        for (uint32_t h = 0; h < hosts; h++) {
            fewest = std::min(fewest, first[h + 1] - first[h]);
            most = std::max(most, first[h + 1] - first[h]);
        }
    }
};

// A chain of running sums along the hosts, for hosts with more than two members: share k of the piece is added up by
// member k of each host, which adds its host's members in order to the sum that member k of the host before has sent. A
// sum crosses from host to host once, instead of once for each pair of members. Half types cross as fp32, so that they
// are rounded once.
struct Chain {
    Across& a;
    const Places& at;
    char* x;
    uint64_t bytes;
    int dtype;
    uint32_t lo, local, place;
    Span own;
    uint64_t count;
    std::vector<char> parts, running;

    Chain(Across& across, const Places& places, char* piece, uint64_t size, int type)
        : a(across), at(places), x(piece), bytes(size), dtype(type) {
        lo = at.first[at.mine], local = at.first[at.mine + 1] - lo, place = a.g.me - lo;
        own = share(place);
        count = own.bytes / item_bytes(dtype);
        parts.resize(own.bytes * local);
        running.resize(half() ? count * sizeof(float) : own.bytes);
    }

    bool half() const { return item_bytes(dtype) == 2; }
    bool carries() const { return place < at.fewest; }
    bool last() const { return at.mine + 1 == at.hosts; }
    uint32_t carrier(uint32_t host) const { return at.first[host] + place; }
    Span share(uint32_t of) const { return of < at.fewest ? part_of(bytes, at.fewest, of) : Span{0, 0}; }

    int run() {
        if (int code = collect()) return code;
        if (carries()) {
            if (int code = receive_sum()) return code;
            add_own();
            if (int code = last() ? send_result() : pass_on()) return code;
        }
        return hand_out();
    }

    int collect() {
        a.begin(0);
        for (uint32_t i = 0; i < local; i++)
            if (i != place) a.add(lo + i, x + share(i).lo, share(i).bytes, parts.data() + own.bytes * i, own.bytes);
        return a.run();
    }

    int receive_sum() {
        if (at.mine == 0) return OK;
        a.begin(1);
        a.add(carrier(at.mine - 1), nullptr, 0, running.data(), running.size());
        return a.run();
    }

    void add_own() {
        const bool first = at.mine == 0;
        const char* from[MAX_MEMBERS + 1] = {running.data()};
        for (uint32_t i = 0; i < local; i++) from[i + 1] = i == place ? x + own.lo : parts.data() + own.bytes * i;
        if (half()) return add_widened(reinterpret_cast<float*>(running.data()), from + 1, local, count, dtype, first);
        if (first && local == 1) memcpy(running.data(), from[1], own.bytes);
        else if (own.bytes) ordered_sum(running.data(), first ? from + 1 : from, first ? local : local + 1, count, dtype);
    }

    int pass_on() {
        a.begin(1);
        a.add(carrier(at.mine + 1), running.data(), running.size(), nullptr, 0);
        if (int code = a.run()) return code;
        a.begin(2);
        a.add(carrier(at.hosts - 1), nullptr, 0, x + own.lo, own.bytes);
        return a.run();
    }

    int send_result() {
        if (half()) narrow_sums(x + own.lo, reinterpret_cast<float*>(running.data()), count, dtype);
        else if (own.bytes) memcpy(x + own.lo, running.data(), own.bytes);
        a.begin(2);
        for (uint32_t h = 0; h + 1 < at.hosts; h++) a.add(carrier(h), x + own.lo, own.bytes, nullptr, 0);
        return a.run();
    }

    int hand_out() {
        a.begin(3);
        for (uint32_t i = 0; i < local; i++)
            if (i != place) a.add(lo + i, x + own.lo, own.bytes, x + share(i).lo, share(i).bytes);
        return a.run();
    }
};

int wire_all_reduce(Call& call, char* x, uint64_t bytes, int dtype) {
    Across a(call);
    const Places at(a.c, a.g);
    uint64_t done = 0;
    do {
        char* const piece = x + done;
        const uint64_t length = std::min(WIRE_PIECE, bytes - done);
        int code;
        if (a.g.n == 2 || length <= SHARES_FROM) code = wire_reduce_directly(a, piece, length, dtype);
        else if (at.most > 2) code = Chain(a, at, piece, length, dtype).run();
        else code = wire_reduce_in_shares(a, piece, length, dtype);
        if (code) return code;
        done += length;
        a.pieces++;
    } while (done < bytes);
    return OK;
}

int wire_all_gather(Call& call, const char* x, char* const* outs, const uint64_t* bytes) {
    Across a(call);
    const Group& g = a.g;
    if (outs[g.me] != x && bytes[g.me]) memmove(outs[g.me], x, bytes[g.me]);
    a.begin(0);
    for (uint32_t i = 0; i < g.n; i++)
        if (i != g.me) a.add(i, x, bytes[g.me], outs[i], bytes[i]);
    return a.run();
}

int wire_reduce_scatter(Call& call, const char* const* xs, const uint64_t* bytes, char* out, int dtype) {
    Across a(call);
    const Group& g = a.g;
    char* at = a.buffer(bytes[g.me] * (g.n - 1));
    const char* from[MAX_MEMBERS];
    a.begin(0);
    for (uint32_t i = 0; i < g.n; i++) {
        from[i] = i == g.me ? xs[i] : at;
        if (i == g.me) continue;
        a.add(i, xs[i], bytes[i], at, bytes[g.me]);
        at += bytes[g.me];
    }
    if (int code = a.run()) return code;
    if (bytes[g.me]) ordered_sum(out, from, g.n, bytes[g.me] / item_bytes(dtype), dtype);
    return OK;
}

int wire_all_to_all(Call& call, const char* const* xs, const uint64_t* sent, char* const* outs, const uint64_t* received) {
    Across a(call);
    const Group& g = a.g;
    a.begin(0);
    for (uint32_t i = 0; i < g.n; i++)
        if (i != g.me) a.add(i, xs[i], sent[i], outs[i], received[i]);
    return a.run();
}

int wire_barrier(Call& call) {
    Across a(call);
    a.begin(0);
    for (uint32_t i = 0; i < a.g.n; i++)
        if (i != a.g.me) a.add(i, nullptr, 0, nullptr, 0);
    return a.run();
}

}  // namespace
