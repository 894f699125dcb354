// Collectives of three ranks, a thread each, for a build that watches threads: over connections where `hosts` differ, else in
// the memory that they share. Ends with 1 where an answer is wrong.
#include "comm.cpp"

#include <sys/socket.h>

#include <thread>

namespace {

constexpr uint32_t RANKS = 3;
constexpr uint64_t PIECE = 4096, COUNT = 3000, ROUNDS = 40;

uint64_t take(uint64_t& end, uint64_t size, uint64_t align = 64) {
    const uint64_t at = (end + align - 1) / align * align;
    end = at + size;
    return at;
}

// One group of all ranks, as weft/compute/comm/shm/region_plan.py lays it out.
int region(uint64_t& size) {
    uint64_t end = sizeof(Header);
    Header header{MAGIC, 0, PIECE, RANKS, 1, 0, 0, 0, 0, 0};
    header.states_at = take(end, 4 * RANKS);
    header.records_at = take(end, sizeof(Record) * RANKS);
    header.groups_at = take(end, sizeof(GroupEntry));
    GroupEntry entry{RANKS, 0, 0, 0, 0, 0, 0, 0};
    entry.members_at = take(end, 4 * RANKS);
    entry.counter_at = take(end, sizeof(Counter));
    entry.heads_at = take(end, 2 * sizeof(Head) * RANKS);
    entry.counts_at = take(end, 2 * 8 * RANKS * RANKS);
    entry.texts_at = take(end, 2 * TEXT * RANKS);
    entry.slots_at = take(end, 2 * RANKS * PIECE, 4096);
    header.size = size = (end + 4095) / 4096 * 4096;
    const int fd = memfd_create("wire", 0);
    const uint32_t ranks[RANKS] = {0, 1, 2};
    if (fd < 0 || ftruncate(fd, int64_t(size))) return -1;
    if (pwrite(fd, &header, sizeof header, 0) < 0 || pwrite(fd, &entry, sizeof entry, int64_t(header.groups_at)) < 0) return -1;
    return pwrite(fd, ranks, sizeof ranks, int64_t(entry.members_at)) < 0 ? -1 : fd;
}

bool reduces(Comm* c, uint32_t rank) {
    std::vector<float> x(COUNT);
    for (uint64_t i = 0; i < COUNT; i++) x[i] = float(rank + i);
    if (weft_comm_all_reduce(c, 0, reinterpret_cast<char*>(x.data()), COUNT, F32)) return false;
    for (uint64_t i = 0; i < COUNT; i++)
        if (x[i] != float(3 * i + 3)) return false;
    return true;
}

bool gathers(Comm* c, uint32_t rank) {
    std::vector<float> own(COUNT, float(rank)), all(RANKS * COUNT);
    char* outs[RANKS];
    uint64_t bytes[RANKS];
    for (uint32_t r = 0; r < RANKS; r++) outs[r] = reinterpret_cast<char*>(all.data() + r * COUNT), bytes[r] = 4 * COUNT;
    if (weft_comm_all_gather(c, 0, reinterpret_cast<char*>(own.data()), outs, bytes, F32)) return false;
    for (uint64_t i = 0; i < RANKS * COUNT; i++)
        if (all[i] != float(i / COUNT)) return false;
    return weft_comm_barrier(c, 0) == OK;
}

bool run(int fd, uint64_t size, uint32_t rank, const int32_t* fds, const uint32_t* host_of) {
    Comm* c = weft_comm_open(fd, size, rank, 60'000);
    if (!c || weft_comm_connect(c, fds, host_of)) return false;
    bool right = true;
    for (uint64_t round = 0; round < ROUNDS && right; round++) right = reduces(c, rank) && gathers(c, rank);
    weft_comm_close(c);
    return right;
}

bool ranks_agree(const uint32_t (&host_of)[RANKS]) {
    uint64_t size = 0;
    const int fd = region(size);
    int32_t fds[RANKS][RANKS] = {{-1, -1, -1}, {-1, -1, -1}, {-1, -1, -1}};
    for (uint32_t a = 0; a < RANKS; a++)
        for (uint32_t b = a + 1; b < RANKS; b++) {
            int pair[2];
            if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return false;
            fds[a][b] = pair[0], fds[b][a] = pair[1];
        }
    std::vector<std::thread> threads;
    bool right[RANKS] = {};
    for (uint32_t r = 0; r < RANKS; r++) threads.emplace_back([&, r] { right[r] = run(fd, size, r, fds[r], host_of); });
    for (std::thread& thread : threads) thread.join();
    close(fd);
    return right[0] && right[1] && right[2];
}

}  // namespace

int main() { return !(ranks_agree({0, 1, 2}) && ranks_agree({0, 0, 1}) && ranks_agree({0, 0, 0})); }
