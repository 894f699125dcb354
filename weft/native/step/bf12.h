// Numbers of bf16 in 12 bits each, none of them changed: most exponents of a group lie close together, so that four bits
// tell them. (Exponents of a trained model's weights have an entropy of under three bits: DFloat11, arXiv 2504.11651.)
//
// A group is 32 of the depth of a pair's 32 columns, 1,536 bytes: for each two neighbours of the depth 64 bytes of signs and
// fractions, in the order in which W_BF16 has its numbers, then 32 bytes of codes, of number i the low four bits of byte i,
// of number 32 + i the high ones. Code c of 0 to 14 is the exponent `highest` - c, 15 the exponent 0 (zeros and what is
// subnormal). What has another exponent is far: told apart from the stream, whole. Knows no product.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>

#include "weight.h"

namespace weft {

constexpr int kNearExponents = 15, kZeroExponent = 15;
constexpr int kGroupNumbers = kGroup * kPair, kStepNumbers = 2 * kPair;
constexpr int kBf12Step = kStepNumbers * 3 / 2;  // bytes of two neighbours of the depth

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

inline const Bf12Group& bf12_group(const Weight& w, int pair, int k) {
    return static_cast<const Bf12Group*>(w.scale)[int64_t(pair) * ceil_div(w.depth, kGroup) + k / kGroup];
}

inline const FarNumber* far_numbers(const Weight& w, const Bf12Group& group) {
    return static_cast<const FarNumber*>(w.offset) + group.first;
}

// Number of (column, k) of a pair's stream, far ones not.
inline bf16 near_number(const char* pair, const Bf12Group& group, int column, int k) {
    const auto* step = reinterpret_cast<const uint8_t*>(pair) + int64_t(k / 2) * kBf12Step;
    const int i = 2 * column + k % 2, code = step[kStepNumbers + i % 32] >> (i / 32 * 4) & 15;
    const int exponent = code == kZeroExponent ? 0 : group.highest - code;
    return {uint16_t((step[i] & 0x80) << 8 | exponent << 7 | (step[i] & 0x7f))};
}

inline bf16 bf12_number(const Weight& w, int pair, int column, int k) {
    const Bf12Group& group = bf12_group(w, pair, k);
    const int place = k % kGroup / 2 * kStepNumbers + 2 * column + k % 2;
    const FarNumber* far = far_numbers(w, group);
    for (int i = 0; i < group.far; ++i)
        if (far[i].place == place) return far[i].number;
    return near_number(pair_data(w, pair), group, column, k);
}

// The highest of 15 neighbouring exponents that most of a group's numbers have.
inline int best_exponents(const uint16_t* numbers) {
    int of[256 + kNearExponents] = {}, within = 0, most = -1, highest = kNearExponents - 1;
    for (int i = 0; i < kGroupNumbers; ++i) of[numbers[i] >> 7 & 255]++;
    of[0] = 0;  // they have a code of their own
    for (int e = 0; e < 256; ++e) {
        within += of[e] - (e >= kNearExponents ? of[e - kNearExponents] : 0);
        if (e >= kNearExponents - 1 && within > most) most = within, highest = e;
    }
    return highest;
}

// Codes of 64 numbers whose exponents reach to `highest`; whether one of them is far.
inline bool encode_step(const uint16_t* numbers, int highest, uint8_t* to) {
    uint8_t codes[kStepNumbers];
    int far = 0;
    for (int i = 0; i < kStepNumbers; ++i) {
        const int16_t exponent = numbers[i] >> 7 & 255, down = int16_t(highest - exponent);
        const bool near = exponent != 0 && down >= 0 && down < kNearExponents;
        far |= !near && exponent != 0;
        codes[i] = near ? uint8_t(down) : kZeroExponent;
        to[i] = uint8_t((numbers[i] >> 8 & 0x80) | (numbers[i] & 0x7f));
    }
    for (int i = 0; i < 32; ++i) to[kStepNumbers + i] = uint8_t(codes[i] | codes[32 + i] << 4);
    return far;
}

// A group's highest exponent if none of its numbers is far from it, and whether that is so.
inline bool all_near(const uint16_t* numbers, int& highest) {
    uint16_t most = 0, least = 0xffff;
    for (int i = 0; i < kGroupNumbers; ++i) {
        const uint16_t exponent = numbers[i] & 0x7f80;
        most = std::max(most, exponent);
        least = std::min<uint16_t>(least, uint16_t(exponent - 1));  // of zeros the largest there is
    }
    highest = std::max(most >> 7, kNearExponents - 1);
    return !most || highest - ((least + 1) >> 7) < kNearExponents;
}

// Numbers of one pair, in the order of W_BF16 with two neighbours together, depth filled up with zeros to whole groups.
// False where `taken`, the far numbers of all pairs, passes what there is room for.
inline bool encode_pair(const Weight& w, int pair, const uint16_t* numbers, std::atomic<uint32_t>& taken) {
    auto* to = reinterpret_cast<uint8_t*>(const_cast<char*>(pair_data(w, pair)));
    const int64_t room = most_far(pairs_of(w), w.depth);
    for (int k = 0; k < w.depth; k += kGroup, numbers += kGroupNumbers) {
        int highest;
        if (!all_near(numbers, highest)) highest = best_exponents(numbers);
        FarNumber far[kGroupNumbers];
        int count = 0;
        for (int step = 0; step < kGroup / 2; ++step, to += kBf12Step) {
            const uint16_t* from = numbers + step * kStepNumbers;
            if (!encode_step(from, highest, to)) continue;
            for (int i = 0; i < kStepNumbers; ++i) {
                const int exponent = from[i] >> 7 & 255, down = highest - exponent;
                if (exponent && (down < 0 || down >= kNearExponents)) far[count++] = {uint16_t(step * kStepNumbers + i), {from[i]}};
            }
        }
        const uint32_t first = count ? taken.fetch_add(uint32_t(count)) : 0;
        if (first + int64_t(count) > room) return false;
        const_cast<Bf12Group&>(bf12_group(w, pair, k)) = {first, uint16_t(count), uint8_t(highest), 0};
        if (count) std::memcpy(const_cast<FarNumber*>(far_numbers(w, bf12_group(w, pair, k))), far, count * sizeof(FarNumber));
    }
    return true;
}

}  // namespace weft
