// TCP connections to the ranks of a group that spans hosts, and one function over them: exchange. Bytes only.
//
// Connections are made and proven in Python (weft/compute/comm/distributed/links.py); this file is handed their descriptors. A pair of
// ranks has one connection, and the order of its messages is the order of the pair's calls. A message is a frame and its
// payload; a payload of no bytes is sent as a frame alone, so that members that skip a call are found.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <thread>
#include <vector>

#include "runtime/comm/region.h"

namespace {

constexpr uint32_t GIVING_UP = UINT32_MAX;    // in place of kind and dtype: the last frame of a rank that fails
constexpr int64_t FAREWELL_NS = 300'000'000;  // how long a closed connection may wait for the reason to arrive
constexpr uint64_t WIRE_PIECE = 1 << 20;      // bytes of a sum that are exchanged at once
constexpr int64_t STATE_LOOK_NS = SLICE_NS;   // how often a spinning rank looks for ranks marked dead

struct Frame {
    uint32_t kind_dtype, group, call, round;
    uint64_t bytes, check;
    char text[TEXT];  // sent in debug runs only
};

// One connection; -1: there is none.
struct Link {
    int fd = -1;
};

struct Wire {
    std::vector<Link> links;           // [world]
    std::vector<uint32_t> host_of;     // [world]
    std::vector<char> buffer;          // partial sums of other members
    std::vector<std::thread> readers;  // of messages from ranks of other hosts: see mail.h
    std::atomic<bool> closing{false};
};

// A message to one member and the one from it. `in` and `out` may be null where their sizes are 0.
struct Transfer {
    uint32_t member;
    const char* out;
    uint64_t out_bytes;
    char* in;
    uint64_t in_bytes;
    Frame mine{}, theirs{};
    uint64_t sent = 0, got = 0;
    bool checked = false;
};

uint64_t frame_bytes(const Comm& c) { return c.debug ? sizeof(Frame) : offsetof(Frame, text); }

// What is left of frame and payload, from byte `done` of both on.
int left_of(iovec (&parts)[2], char* frame, uint64_t head, char* payload, uint64_t bytes, uint64_t done) {
    int n = 0;
    if (done < head) parts[n++] = {frame + done, head - done};
    const uint64_t from = done > head ? done - head : 0;
    if (from < bytes) parts[n++] = {payload + from, bytes - from};
    return n;
}

enum class Moved { NOTHING, SOME, LOST };

Moved moved_by(ssize_t count, uint64_t& done) {
    if (count > 0) return done += static_cast<uint64_t>(count), Moved::SOME;
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return Moved::NOTHING;
    return Moved::LOST;
}

Moved send_some(int fd, uint64_t head, Transfer& t) {
    msghdr message{};
    iovec parts[2];
    message.msg_iov = parts;
    message.msg_iovlen = static_cast<size_t>(
        left_of(parts, reinterpret_cast<char*>(&t.mine), head, const_cast<char*>(t.out), t.out_bytes, t.sent));
    return moved_by(sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT), t.sent);
}

Moved receive_some(int fd, uint64_t head, Transfer& t) {
    msghdr message{};
    iovec parts[2];
    message.msg_iov = parts;
    message.msg_iovlen = static_cast<size_t>(left_of(parts, reinterpret_cast<char*>(&t.theirs), head, t.in, t.in_bytes, t.got));
    return moved_by(recvmsg(fd, &message, MSG_DONTWAIT), t.got);
}

// The calls of two members in `failure`, as of a mismatch in shared memory.
int wire_mismatch(Comm& c, const Group& g, const Transfer& t) {
    Failure& f = c.failure;
    f.my_kind_dtype = t.mine.kind_dtype, f.my_call = t.mine.call, f.my_bytes = t.in_bytes;
    f.their_kind_dtype = t.theirs.kind_dtype, f.their_call = t.theirs.call, f.their_bytes = t.theirs.bytes;
    memset(f.my_text, 0, TEXT), memset(f.their_text, 0, TEXT);
    if (c.debug) memcpy(f.my_text, t.mine.text, TEXT), memcpy(f.their_text, t.theirs.text, TEXT);
    const int32_t rank = static_cast<int32_t>(g.ranks[t.member]);
    return fail(c, MISMATCH, rank, rank);
}

// Compares the frame that came with the one that was sent.
int check_frame(Comm& c, const Group& g, Transfer& t) {
    t.checked = true;
    const Frame &a = t.mine, &b = t.theirs;
    if (b.kind_dtype == GIVING_UP) {
        const int32_t rank = static_cast<int32_t>(g.ranks[t.member]);
        return fail(c, PEER_GAVE_UP, rank, static_cast<int32_t>(b.bytes) - 1);
    }
    const bool same = a.kind_dtype == b.kind_dtype && a.group == b.group && a.call == b.call && a.round == b.round &&
                      a.check == b.check && b.bytes == t.in_bytes;
    if (!same || (c.debug && memcmp(a.text, b.text, TEXT) != 0)) return wire_mismatch(c, g, t);
    return OK;
}

// A rank of the world that is marked dead or gave up ends every wait.
int failed_elsewhere(Comm& c) {
    for (uint32_t wanted : {DEAD, GAVE_UP})
        for (uint32_t r = 0; r < c.world; r++) {
            const uint32_t state = state_of(c, r);
            if (r == c.rank || (state & 255) != wanted) continue;
            const int32_t rank = static_cast<int32_t>(r);
            if (wanted == DEAD) return fail(c, PEER_DEAD, rank, rank);
            return fail(c, PEER_GAVE_UP, rank, static_cast<int32_t>(state >> 8) - 1);
        }
    return OK;
}

// A connection has ended. The supervisor, which watches the rank's process, marks the rank dead a moment later.
int connection_lost(Comm& c, const Group& g, const Transfer& t) {
    const int64_t until = monotonic_ns() + FAREWELL_NS;
    while (monotonic_ns() < until) {
        if (int code = failed_elsewhere(c)) return code;
        const timespec moment{0, 5'000'000};
        nanosleep(&moment, nullptr);
    }
    const int32_t rank = static_cast<int32_t>(g.ranks[t.member]);
    return fail(c, PEER_CLOSED, rank, rank);
}

int wire_timed_out(Comm& c, const Group& g, const std::vector<Transfer>& transfers) {
    Failure& f = c.failure;
    f.missing_count = 0;
    for (const Transfer& t : transfers)
        if (!t.checked && f.missing_count < MAX_MEMBERS) f.missing[f.missing_count++] = static_cast<int32_t>(g.ranks[t.member]);
    for (const Transfer& t : transfers)  // all have begun, and one does not go on
        if (!f.missing_count && (t.got < frame_bytes(c) + t.in_bytes || t.sent < frame_bytes(c) + t.out_bytes))
            f.missing[f.missing_count++] = static_cast<int32_t>(g.ranks[t.member]);
    const int32_t first = f.missing_count ? f.missing[0] : -1;
    return fail(c, TIMED_OUT, first, first);
}

// Sleeps until a connection can go on, for one slice of time at most.
void sleep_on(const Comm& c, const Group& g, const std::vector<Transfer>& transfers, uint64_t head) {
    pollfd fds[MAX_MEMBERS];
    nfds_t n = 0;
    for (const Transfer& t : transfers) {
        short events = 0;
        if (t.got < head + t.in_bytes) events |= POLLIN;
        if (t.sent < head + t.out_bytes) events |= POLLOUT;
        if (events) fds[n++] = {c.wire->links[g.ranks[t.member]].fd, events, 0};
    }
    poll(fds, n, static_cast<int>(SLICE_NS / 1'000'000));
}

// Sends and receives all of `transfers`, with several members at a time; returns when all of it is done. What was sent
// may be written to again then. A wait ends at the time limit counted from the last byte that moved.
int exchange(Comm& c, const Group& g, std::vector<Transfer>& transfers) {
    const uint64_t head = frame_bytes(c);
    int64_t moved_ns = monotonic_ns(), looked_ns = moved_ns;
    for (;;) {
        bool moved = false, open = false;
        for (Transfer& t : transfers) {
            const int fd = c.wire->links[g.ranks[t.member]].fd;
            Moved result = Moved::NOTHING;
            if (t.got < head + t.in_bytes) result = receive_some(fd, head, t);
            if (!t.checked && t.got >= head)
                if (int code = check_frame(c, g, t)) return code;
            if (result == Moved::LOST) return connection_lost(c, g, t);
            moved |= result == Moved::SOME;
            if (t.sent < head + t.out_bytes) {
                result = send_some(fd, head, t);
                moved |= result == Moved::SOME;
                // What the peer said last may still be there to be read.
                if (result == Moved::LOST && t.got >= head + t.in_bytes) return connection_lost(c, g, t);
            }
            open |= t.got < head + t.in_bytes || t.sent < head + t.out_bytes;
        }
        if (!open) return OK;
        const int64_t now = monotonic_ns();
        if (moved) {
            moved_ns = now;
            continue;
        }
        const bool spins = now - moved_ns < c.spin_ns;
        if (!spins || now - looked_ns >= STATE_LOOK_NS) {
            if (int code = failed_elsewhere(c)) return code;
            looked_ns = now;
        }
        if (now - moved_ns >= c.timeout_ns) return wire_timed_out(c, g, transfers);
        if (spins) relax();
        else sleep_on(c, g, transfers, head);
    }
}

// Reports to every connected rank that this one fails, and which rank it blames. A send that would block is skipped: that
// rank sees the connection close.
void say_giving_up(Comm& c) {
    Frame frame{};
    frame.kind_dtype = GIVING_UP;
    frame.bytes = static_cast<uint64_t>(c.failure.blamed + 1);
    for (Link& link : c.wire->links)
        if (link.fd >= 0) send(link.fd, &frame, frame_bytes(c), MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace
