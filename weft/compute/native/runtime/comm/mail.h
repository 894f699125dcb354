// Messages between pipeline stages: from one rank of a pair to the other, in a ring of boxes in the shared region. The sender
// copies a message into a free box and goes on; it waits only where the ring is full. The receiver takes messages in order.
// Between hosts a thread of the receiver's process takes messages from the connection into boxes of its own host's region: a
// message can be larger than a socket's buffer, and the receiver may compute for a while. Ranks of two stages have no other
// group in common, so that nothing else comes over their connection.
#pragma once

#include <signal.h>

#include <functional>

#include "runtime/comm/calls.h"
#include "runtime/comm/wire.h"

namespace {

struct MailHead {  // before each message
    uint64_t bytes;
    uint32_t kind_dtype, call;
    uint64_t pad[6];
};
static_assert(sizeof(MailHead) == 64, "as in weft/compute/comm/shm/region.py");

char* box_of(const Comm& c, const Mail& m, uint64_t number) {
    return c.base + m.boxes_at + number % m.boxes * (sizeof(MailHead) + m.room);
}

bool came_to(const std::atomic<uint64_t>& counter, uint64_t target) {
    return counter.load(std::memory_order_acquire) >= target;
}

// Whether messages of the peer, a rank of another host, can no longer come: OK where they can.
int mail_lost(Comm& c, const Group& g) {
    const uint32_t lost = g.spans ? g.mail[1 - g.me].lost.load(std::memory_order_acquire) : 0;
    if (!lost) return OK;
    const int32_t peer = static_cast<int32_t>(g.ranks[1 - g.me]);
    if (lost > LINK_ENDED) return fail(c, PEER_GAVE_UP, peer, static_cast<int32_t>(lost - LINK_ENDED) - 2);
    return connection_lost(c, g, Transfer{1 - g.me, nullptr, 0, nullptr, 0});
}

// Waits until the peer has brought `counter` to `target`. It wakes this rank where `sleepers` is not 0. Between hosts this
// rank does not spin: the thread that takes messages may need its core.
int wait_for_peer(Comm& c, Group& g, std::atomic<uint64_t>& counter, std::atomic<uint32_t>& sleepers, uint64_t target) {
    const int64_t began = monotonic_ns(), deadline = began + c.timeout_ns;
    const int32_t peer = static_cast<int32_t>(g.ranks[1 - g.me]);
    while (!g.spans && monotonic_ns() - began < c.spin_ns)
        for (int i = 0; i < 64; i++) {
            if (came_to(counter, target)) return OK;
            relax();
        }
    for (;;) {
        const bool closed = state_of(c, g.ranks[1 - g.me]) == CLOSED;
        const bool lost = g.spans && g.mail[1 - g.me].lost.load(std::memory_order_acquire);
        if (came_to(counter, target)) return OK;  // it may have come here before it ended
        if (int code = failed_elsewhere(c)) return code;
        if (lost) return mail_lost(c, g);
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

// To a rank of another host: returns when the system has taken all of it. A wait ends at the time limit counted from the last
// byte that moved.
int mail_over_wire(Call& call, const char* x, uint64_t bytes, uint64_t number) {
    Comm& c = call.c;
    const Group& g = call.g;
    const uint64_t head = frame_bytes(c);
    const int32_t peer = static_cast<int32_t>(g.ranks[1 - g.me]);
    const int fd = c.wire->links[g.ranks[1 - g.me]].fd;
    Transfer t{1 - g.me, x, bytes, nullptr, 0};
    t.mine.kind_dtype = call.head.kind_dtype, t.mine.call = static_cast<uint32_t>(number + 1), t.mine.bytes = bytes;
    int64_t moved_ns = monotonic_ns();
    while (t.sent < head + bytes) {
        const Moved moved = send_some(fd, head, t);
        if (moved == Moved::SOME) {
            moved_ns = monotonic_ns();
            continue;
        }
        if (int code = failed_elsewhere(c)) return code;
        if (int code = mail_lost(c, g)) return code;  // it may have said why
        if (moved == Moved::LOST) return connection_lost(c, g, t);
        if (monotonic_ns() - moved_ns >= c.timeout_ns) {
            c.failure.missing[0] = peer, c.failure.missing_count = 1;
            return fail(c, TIMED_OUT, peer, peer);
        }
        pollfd writable{fd, POLLOUT, 0};
        poll(&writable, 1, static_cast<int>(SLICE_NS / 1'000'000));
    }
    return OK;
}

// ---- the thread of a receiving rank

// All of `bytes` from a connection; false where it has ended.
bool read_all(int fd, char* to, uint64_t bytes) {
    while (bytes) {
        const ssize_t count = recv(fd, to, bytes, MSG_DONTWAIT);
        if (count > 0) {
            to += count, bytes -= static_cast<uint64_t>(count);
            continue;
        }
        if (count == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) return false;
        pollfd readable{fd, POLLIN, 0};
        poll(&readable, 1, -1);
    }
    return true;
}

// Waits until there is a free box for message `number`; false where this process closes its end.
bool await_box(Mail& m, uint64_t number, const std::atomic<bool>& closing) {
    const timespec slice{0, static_cast<long>(SLICE_NS)};
    while (!came_to(m.taken, number + 1 - m.boxes)) {
        if (closing.load()) return false;
        m.senders_asleep.fetch_add(1);
        const uint64_t seen = m.taken.load();
        if (seen < number + 1 - m.boxes) futex(&m.taken, FUTEX_WAIT, static_cast<uint32_t>(seen), &slice);
        m.senders_asleep.fetch_sub(1);
    }
    return true;
}

// Takes messages from a connection into boxes until it ends, the sender gives up or this process closes its end. Returns
// what `Mail::lost` is then.
uint32_t read_messages(const Comm& c, Mail& m, int fd) {
    Frame frame{};
    for (uint64_t number = 0; read_all(fd, reinterpret_cast<char*>(&frame), frame_bytes(c)); ++number) {
        if (frame.kind_dtype == GIVING_UP) return LINK_ENDED + 1 + static_cast<uint32_t>(frame.bytes);
        if (frame.bytes > m.room) break;  // the sender compares the same sizes: no message of ours
        if (number >= m.boxes && !await_box(m, number, c.wire->closing)) break;
        char* box = box_of(c, m, number);
        const MailHead head{frame.bytes, frame.kind_dtype, frame.call, {}};
        memcpy(box, &head, sizeof head);
        if (!read_all(fd, box + sizeof head, frame.bytes)) break;
        bring_to(m.sent, m.receivers_asleep, number + 1);
    }
    return LINK_ENDED;
}

void read_mail(const Comm& c, Mail& m, int fd) {
    sigset_t all;  // signals are for Python's threads
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    m.lost.store(read_messages(c, m, fd));
    futex(&m.sent, FUTEX_WAKE, INT32_MAX);
}

// Starts the threads that take messages from ranks of other hosts. std::system_error: the system has no thread.
void start_readers(Comm& c) {
    for (uint32_t i = 0; i < c.group_count; i++) {
        const Group& g = c.groups[i];
        if (g.me == g.n || !g.spans || !g.mail) continue;
        const int fd = c.wire->links[g.ranks[1 - g.me]].fd;
        c.wire->readers.emplace_back(read_mail, std::cref(c), std::ref(g.mail[1 - g.me]), fd);
    }
}

// Ends and awaits them: a connection that is shut down wakes its reader.
void end_readers(Comm& c) {
    c.wire->closing.store(true);
    for (uint32_t i = 0; i < c.group_count; i++) {
        const Group& g = c.groups[i];
        if (g.me != g.n && g.spans && g.mail) shutdown(c.wire->links[g.ranks[1 - g.me]].fd, SHUT_RDWR);
    }
    for (std::thread& reader : c.wire->readers) reader.join();
}

int put_mail(Call& call, const char* x, uint64_t bytes) {
    Group& g = call.g;
    Mail& m = g.mail[g.me];
    const uint64_t number = m.sent.load(std::memory_order_relaxed);
    if (bytes > m.room) return mail_mismatch(call.c, g, call.head, bytes, {m.room, call.head.kind_dtype, 0, {}});
    if (g.spans) {
        if (int code = mail_over_wire(call, x, bytes, number)) return code;
        m.sent.store(number + 1);
        return OK;
    }
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
