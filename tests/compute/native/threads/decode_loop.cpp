// Decode steps one after the other from a stream of frames, for a build that watches threads: one thread writes frames, a
// pool of three runs a program of one addition. Ends with 1 where a sum or the number of steps is wrong.
#include "step.cpp"

#include <thread>

namespace {

constexpr int64_t ROWS = 3, WIDTH = 512, SLOTS = 4, STEPS = 300, BLOCKS = 8;

void put_number(std::vector<uint8_t>& to, uint64_t value) {
    to.push_back(0xcf);
    for (int i = 7; i >= 0; --i) to.push_back(uint8_t(value >> (8 * i)));
}

void put_bytes(std::vector<uint8_t>& to, const void* from, size_t size) {
    to.push_back(0xc6);
    for (int i = 3; i >= 0; --i) to.push_back(uint8_t(size >> (8 * i)));
    const auto* bytes = static_cast<const uint8_t*>(from);
    to.insert(to.end(), bytes, bytes + size);
}

void put_text(std::vector<uint8_t>& to, const char* word) {
    to.push_back(uint8_t(0xa0 | strlen(word)));
    to.insert(to.end(), word, word + strlen(word));
}

// Step `index` of every row's stream: what `read_streams` takes.
std::vector<uint8_t> frame(uint64_t index) {
    const int64_t columns[3 * ROWS] = {0, 1, 2, int64_t(index), int64_t(index), int64_t(index), 1, 1, 1};
    const int64_t grown[3] = {int64_t(index) % ROWS, int64_t(index) / 16 % BLOCKS, 1};
    std::vector<uint8_t> to(4);
    to.push_back(0x82);
    put_text(to, "type"), put_text(to, "step"), put_text(to, "plan");
    to.push_back(0x97);
    put_number(to, index);
    to.push_back(0x91);
    put_number(to, ROWS);
    to.insert(to.end(), {0x90, 0x93, 0x90, 0x90, 0x93});
    put_bytes(to, columns, sizeof columns);
    to.push_back(0x90);
    put_bytes(to, grown, sizeof grown);
    to.push_back(0xc0);
    put_number(to, 0);
    to.push_back(0xc2);
    const uint32_t size = uint32_t(to.size()) - 4;
    memcpy(to.data(), &size, 4);
    return to;
}

struct Engine {
    std::vector<float> sum = std::vector<float>(ROWS * WIDTH), addend = std::vector<float>(ROWS * WIDTH, 1.0f);
    std::vector<int32_t> tables = std::vector<int32_t>(SLOTS * BLOCKS * 16), positions = std::vector<int32_t>(SLOTS),
                         places = std::vector<int32_t>(SLOTS), block_tables = std::vector<int32_t>(SLOTS * BLOCKS * 16);
    std::vector<int64_t> last_ids = std::vector<int64_t>(SLOTS), ids = std::vector<int64_t>(SLOTS),
                         columns = std::vector<int64_t>(3 * SLOTS), chosen = std::vector<int64_t>(SLOTS);
    std::vector<uint8_t> room = std::vector<uint8_t>(4096), answer = std::vector<uint8_t>(4096);
    int64_t highest = 0, of_ranks[1] = {ROWS};
    weft::Decode decode{};
    weft::DecodeShape shape{};
    weft::StageIds stage{};
    weft::Status status{};
    weft::Following following{};
    weft::Instruction add{};

    explicit Engine(int fd) {
        add.op = weft::ADD;
        add.out = {sum.data(), WIDTH, weft::F32, WIDTH};
        add.in[0] = {addend.data(), WIDTH, weft::F32, WIDTH};
        decode.slots = SLOTS, decode.block_size = 16, decode.owners = 1, decode.table_width = BLOCKS * 16;
        decode.tables = tables.data(), decode.highest = &highest, decode.last_ids = last_ids.data(), decode.ids = ids.data();
        decode.positions = positions.data(), decode.places = places.data(), decode.block_tables = block_tables.data();
        decode.chosen = chosen.data();
        shape.step.rows[0] = ROWS, shape.of_ranks = of_ranks, shape.rows = shape.own_count = shape.counted = ROWS;
        following.fd = fd, following.ranks = 1, following.shapes = &shape, following.count = 1, following.ids = &stage;
        following.status = &status, following.frame = room.data(), following.frame_room = int64_t(room.size());
        following.columns = columns.data(), following.answer = answer.data();
    }
};

}  // namespace

int main() {
    int pair[2], error = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return 1;
    weft::Pool* pool = weft_pool_new(3, nullptr, 20'000, &error);
    Engine engine(pair[0]);
    weft::Program* program = pool ? weft_program_new(pool, &engine.add, 1, nullptr) : nullptr;
    if (!program) return 1;
    std::thread writer([&] {
        for (uint64_t index = 0; index < STEPS; ++index) {
            const std::vector<uint8_t> bytes = frame(index);
            weft::send_all(pair[1], bytes.data(), int64_t(bytes.size()));
        }
        shutdown(pair[1], SHUT_WR);
    });
    const int code = weft_decode_follow(program, &engine.decode, &engine.following);
    writer.join();
    weft_program_free(program);
    weft_pool_free(pool);
    bool right = code == 0 && engine.following.steps == STEPS;
    for (float value : engine.sum) right &= value == float(STEPS);
    return !right;
}
