// A rank's plan with decode rows only, as it stands in a frame, and its answer: msgpack, as weft/runtime/ipc/messages.py and
// weft/base/step/plan.py define RunStep and StepDone. A frame of another form is not an error: Python reads it.
#pragma once

#include <stdint.h>
#include <string.h>

namespace weft {

class FrameReader {
public:
    FrameReader(const uint8_t* at, int64_t size) : at_(at), end_(at + size) {}

    bool done() const { return at_ == end_; }
    bool map(int count) { return byte(0x80 | count); }
    bool nil() { return byte(0xc0); }
    bool no() { return byte(0xc2); }
    bool text(const char* word) {
        const int64_t size = int64_t(strlen(word));
        if (!byte(uint8_t(0xa0 | size)) || left() < size || memcmp(at_, word, size)) return false;
        at_ += size;
        return true;
    }
    bool array(int64_t count) {
        if (count < 16) return byte(uint8_t(0x90 | count));
        uint64_t found;
        return byte(0xdc) && big_endian(2, found) && int64_t(found) == count;
    }
    bool number(uint64_t& value) {
        if (!left()) return false;
        const uint8_t kind = *at_++;
        if (kind < 0x80) return value = kind, true;
        return kind >= 0xcc && kind <= 0xcf && big_endian(1 << (kind - 0xcc), value);
    }
    bool bytes(const uint8_t*& data, int64_t& size) {
        uint64_t found;
        if (!left()) return false;
        const uint8_t kind = *at_++;
        if (kind < 0xc4 || kind > 0xc6 || !big_endian(1 << (kind - 0xc4), found) || uint64_t(left()) < found) return false;
        data = at_, size = int64_t(found);
        at_ += found;
        return true;
    }

private:
    int64_t left() const { return end_ - at_; }
    bool byte(int wanted) {
        if (!left() || *at_ != wanted) return false;
        ++at_;
        return true;
    }
    bool big_endian(int size, uint64_t& value) {
        if (left() < size) return false;
        for (value = 0; size; --size) value = value << 8 | *at_++;
        return true;
    }

    const uint8_t *at_, *end_;
};

constexpr int64_t kRowBytes = 3 * sizeof(int64_t), kTableBytes = 3 * sizeof(int64_t);

// Of this rank's attention-dp group.
struct StreamsPlan {
    uint64_t index;
    const uint8_t* columns;  // [3, rows]
    const uint8_t* grown;    // [tables, 3]
    int64_t tables;
    uint64_t awaits;  // with pipeline stages: the first one must have the ids of all steps before this one
};

// Whether the frame is a step in which every rank r has rows[r] rows, all of them sampled, and the `own` rows of this
// rank's group are streams.
inline bool read_streams(const uint8_t* frame, int64_t size, int ranks, const int64_t* rows, int64_t own, StreamsPlan& plan) {
    FrameReader in(frame, size);
    if (!in.map(2) || !in.text("type") || !in.text("step") || !in.text("plan")) return false;
    if (!in.array(7) || !in.number(plan.index) || !in.array(ranks)) return false;
    for (int r = 0; r < ranks; ++r) {
        uint64_t found;
        if (!in.number(found) || int64_t(found) != rows[r]) return false;
    }
    int64_t columns_bytes, grown_bytes;
    if (!in.array(0) || !in.array(3) || !in.array(0) || !in.array(0) || !in.array(3)) return false;
    if (!in.bytes(plan.columns, columns_bytes) || !in.array(0) || !in.bytes(plan.grown, grown_bytes)) return false;
    if (columns_bytes != own * kRowBytes || grown_bytes % kTableBytes) return false;
    plan.tables = grown_bytes / kTableBytes;
    return in.nil() && in.number(plan.awaits) && in.no() && in.done();  // an eager step is for Python
}

constexpr int64_t kAnswerRoom = 64;  // bytes beside the ids

// Its answer with the length before it; returns its size in all. `ids`: of every row; `to` has room for them and
// kAnswerRoom bytes more.
inline int64_t write_answer(uint64_t index, const int64_t* ids, int64_t count, uint8_t* to) {
    // clang-format off: one string
    static const char before[] = "\x83\xa4type\xa4""done\xa5index\xcf", between[] = "\xa6result\x93\xc6";
    // clang-format on
    uint8_t* at = to + 4;
    auto put = [&](const void* from, int64_t size) { memcpy(at, from, size), at += size; };
    auto put_number = [&](uint64_t value, int size) {
        for (int i = size - 1; i >= 0; --i) *at++ = uint8_t(value >> (8 * i));
    };
    put(before, sizeof before - 1);
    put_number(index, 8);
    put(between, sizeof between - 1);
    put_number(uint64_t(count) * 8, 4);
    put(ids, count * 8);
    put("\x90\x90", 2);  // no extras, no runs
    const uint32_t size = uint32_t(at - to) - 4;
    memcpy(to, &size, 4);
    return size + 4;
}

}  // namespace weft
