// Numbers of bf16 in 12 bits each, none of them changed: most exponents of a group lie close together, so that four bits
// tell them. (Exponents of a trained model's weights have an entropy of under three bits: DFloat11, arXiv 2504.11651.)
//
// A group is 32 of the depth of a pair's 32 columns, 1,536 bytes: for each two neighbours of the depth 64 bytes of signs and
// fractions, in the order in which W_BF16 has its numbers, then 32 bytes of codes, of number i the low four bits of byte i,
// of number 32 + i the high ones. Code c of 0 to 14 is the exponent `highest` - c, 15 the exponent 0 (zeros and what is
// subnormal). What has another exponent is far: told apart from the stream, whole. Knows no product.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>

#include "weight.h"

namespace weft {

constexpr int kNearExponents = 15, kZeroCode = 15, kFarCode = 16;
constexpr int kStepNumbers = 2 * kPair, kGroupNumbers = kGroup * kPair;
constexpr int kStepBf12 = kStepNumbers * 3 / 2;  // bytes of two neighbours of the depth

// Of Weight::scale, [pair][depth / 32].
struct Bf12Group {
    uint32_t first;  // of its far numbers, in Weight::offset
    uint16_t far;    // how many, in the order of their places
    uint8_t highest, unused;
};

struct FarNumber {
    uint16_t place;  // in the group: 64 * (depth / 2) + 2 * column + depth % 2
    bf16 number;
};

// What a weight has room for: one for each group, and a few. More would make it slow before they made it large.
inline int64_t most_far(int pairs, int depth) { return int64_t(pairs) * ceil_div(depth, kGroup) + 64; }

inline int64_t bf12_group(const Weight& w, int pair, int k) { return int64_t(pair) * ceil_div(w.depth, kGroup) + k / kGroup; }

// Number `i` of the 64 at `step`, if it is not far.
inline bf16 near_number(const char* step, int highest, int i) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(step);
    const int code = bytes[kStepNumbers + i % 32] >> (i / 32 * 4) & 15, exponent = code == kZeroCode ? 0 : highest - code;
    return {uint16_t((bytes[i] & 0x80) << 8 | exponent << 7 | (bytes[i] & 0x7f))};
}

// give(column, k, number) for columns [first, last) and the depth of the group at `k`: of a far number twice, first a wrong
// one.
template <class Give> inline void numbers_of_group(const Weight& w, int pair, int k, int first, int last, Give give) {
    const Bf12Group& group = static_cast<const Bf12Group*>(w.scale)[bf12_group(w, pair, k)];
    const char* steps = pair_data(w, pair) + int64_t(k / 2) * kStepBf12;
    const int depth = std::min(kGroup, w.depth - k);
    for (int i = 0; i < depth; ++i)
        for (int column = first; column < last; ++column)
            give(column, k + i, near_number(steps + i / 2 * kStepBf12, group.highest, 2 * column + i % 2));
    const FarNumber* far = static_cast<const FarNumber*>(w.offset) + group.first;
    for (const FarNumber* end = far + group.far; far < end; ++far) {
        const int column = far->place % kStepNumbers / 2, i = far->place / kStepNumbers * 2 + far->place % 2;
        if (column >= first && column < last && i < depth) give(column, k + i, far->number);
    }
}

// The highest of 15 neighbouring exponents that most of a group's numbers have.
inline int highest_exponent(const uint16_t* numbers) {
    int of[256] = {}, within = 0, most = -1, highest = 0;
    for (int i = 0; i < kGroupNumbers; ++i) of[numbers[i] >> 7 & 255]++;
    of[0] = 0;  // they have a code of their own
    for (int e = 0; e < 256; ++e) {
        within += of[e] - (e >= kNearExponents ? of[e - kNearExponents] : 0);
        if (e >= kNearExponents - 1 && within > most) most = within, highest = e;
    }
    return highest;
}

inline int code_of_exponent(uint16_t number, int highest) {
    const int exponent = number >> 7 & 255, down = highest - exponent;
    if (!exponent) return kZeroCode;
    return down >= 0 && down < kNearExponents ? down : kFarCode;
}

// Group of `numbers`, in the order of W_BF16 with two neighbours together; far ones to `far`: how many.
inline int encode_group(const uint16_t* numbers, int highest, char* to, FarNumber* far) {
    int count = 0;
    for (int place = 0; place < kGroupNumbers; to += kStepBf12) {
        auto* bytes = reinterpret_cast<uint8_t*>(to);
        std::memset(bytes + kStepNumbers, 0, kStepNumbers / 2);
        for (int i = 0; i < kStepNumbers; ++i, ++place) {
            const uint16_t number = numbers[place];
            const int code = code_of_exponent(number, highest);
            bytes[i] = uint8_t((number >> 8 & 0x80) | (number & 0x7f));
            bytes[kStepNumbers + i % 32] |= uint8_t((code & 15) << (i / 32 * 4));
            if (code == kFarCode) far[count++] = {uint16_t(place), {number}};
        }
    }
    return count;
}

// Numbers of one pair, depth filled up with zeros to whole groups. False where `taken`, the far numbers of all pairs, passes
// what there is room for.
inline bool encode_pair(const Weight& w, int pair, const uint16_t* numbers, std::atomic<int64_t>& taken) {
    char* to = const_cast<char*>(pair_data(w, pair));
    auto* groups = static_cast<Bf12Group*>(const_cast<void*>(w.scale));
    auto* apart = static_cast<FarNumber*>(const_cast<void*>(w.offset));
    const int64_t room = most_far(pairs_of(w), w.depth);
    FarNumber far[kGroupNumbers];
    for (int k = 0; k < w.depth; k += kGroup, numbers += kGroupNumbers, to += kGroup / 2 * kStepBf12) {
        const int highest = highest_exponent(numbers), count = encode_group(numbers, highest, to, far);
        const int64_t first = count ? taken.fetch_add(count) : 0;
        if (first + count > room) return false;
        groups[bf12_group(w, pair, k)] = {uint32_t(first), uint16_t(count), uint8_t(highest), 0};
        std::memcpy(apart + first, far, count * sizeof(FarNumber));
    }
    return true;
}

}  // namespace weft
