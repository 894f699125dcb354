// Messages between pipeline stages: from one rank of a pair to the other, in a ring of boxes in the shared region. The sender
// copies a message into a free box and goes on; it waits only where the ring is full. The receiver takes messages in order.
#pragma once

#include "runtime/comm/calls.h"
#include "runtime/comm/wire.h"

namespace {

struct MailHead {  // before each message
    uint64_t bytes;
    uint32_t kind_dtype, call;
    uint64_t pad[6];
};
static_assert(sizeof(MailHead) == 64, "as in weft/comm/shm/region.py");

char* box_of(const Comm& c, const Mail& m, uint64_t number) {
    return c.base + m.boxes_at + number % m.boxes * (sizeof(MailHead) + m.room);
}

bool came_to(const std::atomic<uint64_t>& counter, uint64_t target) {
    return counter.load(std::memory_order_acquire) >= target;
}

// Waits until the peer has brought `counter` to `target`. It wakes this rank where `sleepers` is not 0.
int wait_for_peer(Comm& c, Group& g, std::atomic<uint64_t>& counter, std::atomic<uint32_t>& sleepers, uint64_t target) {
    const int64_t began = monotonic_ns(), deadline = began + c.timeout_ns;
    const int32_t peer = static_cast<int32_t>(g.ranks[1 - g.me]);
    while (monotonic_ns() - began < c.spin_ns)
        for (int i = 0; i < 64; i++) {
            if (came_to(counter, target)) return OK;
            relax();
        }
    for (;;) {
        const bool closed = state_of(c, g.ranks[1 - g.me]) == CLOSED;
        if (came_to(counter, target)) return OK;  // it may have come here before it ended
        if (int code = failed_elsewhere(c)) return code;
        if (closed) return fail(c, PEER_CLOSED, peer, peer);
        const int64_t left = deadline - monotonic_ns();
        if (left <= 0) {
            c.failure.missing[0] = peer, c.failure.missing_count = 1;
            return fail(c, TIMED_OUT, peer, peer);
        }
        const timespec slice{0, static_cast<long>(std::min(left, SLICE_NS))};
        sleepers.fetch_add(1);
        const uint64_t seen = counter.load();
        if (seen < target) futex(&counter, FUTEX_WAIT, static_cast<uint32_t>(seen), &slice);
        sleepers.fetch_sub(1);
        if (came_to(counter, target)) return OK;
    }
}

void bring_to(std::atomic<uint64_t>& counter, std::atomic<uint32_t>& sleepers, uint64_t number) {
    counter.store(number);
    if (sleepers.load()) futex(&counter, FUTEX_WAKE, INT32_MAX);
}

// A message that is none of this size and dtype, or larger than a box.
int mail_mismatch(Comm& c, const Group& g, const Head& mine, uint64_t my_bytes, const MailHead& other) {
    Failure& f = c.failure;
    f.my_kind_dtype = mine.kind_dtype, f.my_call = mine.call, f.my_bytes = my_bytes;
    f.their_kind_dtype = other.kind_dtype, f.their_call = other.call, f.their_bytes = other.bytes;
    memset(f.my_text, 0, TEXT), memset(f.their_text, 0, TEXT);
    const int32_t rank = static_cast<int32_t>(g.ranks[1 - g.me]);
    return fail(c, MISMATCH, rank, rank);
}

int put_mail(Call& call, const char* x, uint64_t bytes) {
    Group& g = call.g;
    Mail& m = g.mail[g.me];
    const uint64_t number = m.sent.load(std::memory_order_relaxed);
    if (bytes > m.room) return mail_mismatch(call.c, g, call.head, bytes, {m.room, call.head.kind_dtype, 0, {}});
    if (number >= m.boxes)
        if (int code = wait_for_peer(call.c, g, m.taken, m.senders_asleep, number + 1 - m.boxes)) return code;
    char* box = box_of(call.c, m, number);
    const MailHead head{bytes, call.head.kind_dtype, static_cast<uint32_t>(number + 1), {}};
    memcpy(box, &head, sizeof head);
    memcpy(box + sizeof head, x, bytes);
    bring_to(m.sent, m.receivers_asleep, number + 1);
    return OK;
}

int take_mail(Call& call, char* x, uint64_t bytes) {
    Group& g = call.g;
    Mail& m = g.mail[1 - g.me];
    const uint64_t number = m.taken.load(std::memory_order_relaxed);
    if (int code = wait_for_peer(call.c, g, m.sent, m.receivers_asleep, number + 1)) return code;
    const char* box = box_of(call.c, m, number);
    MailHead head;
    memcpy(&head, box, sizeof head);
    const uint32_t dtype = call.head.kind_dtype & 255;
    if (head.bytes != bytes || (head.kind_dtype & 255) != dtype || head.call != static_cast<uint32_t>(number + 1))
        return mail_mismatch(call.c, g, call.head, bytes, head);
    memcpy(x, box + sizeof head, bytes);
    bring_to(m.taken, m.senders_asleep, number + 1);
    return OK;
}

}  // namespace
