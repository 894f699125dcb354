// Lossless compression of bf16 to 12 bits a number: most exponents of a group are among 16 consecutive ones, so four bits
// encode them. (Exponents of a trained model's weights have an entropy of under three bits: DFloat11, arXiv 2504.11651.)
//
// A group is 32 of the depth of a pair's 32 columns, 1,536 bytes: 192 for each four consecutive depths, whose 128 numbers, in
// the order of W_BF16, are four vectors. Three vectors have one 16-bit word for each number: sign and fraction where bf16 has
// them, between them the low four bits of exponent - `lowest`. The other four bits of these words encode the number in the
// fourth vector: the first word has its exponent, the second the high bits of its fraction, the third its sign and the low
// bits of its fraction. The pattern of 2^`lowest` stands for 0. Numbers with another exponent, and 2^`lowest`, are "far":
// stored whole in a separate list with their places. Zeros are far too where `lowest` is no multiple of 16, because decoding
// them in place would need more instructions.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <numeric>

#include "kernels/quant/weight.h"

namespace weft {

constexpr int kNearExponents = 16, kBf16In12BitsChunk = 16;  // neighbours of the depth
constexpr int kStepNumbers = 2 * kPair, kQuadNumbers = 2 * kStepNumbers, kGroupNumbers = kGroup * kPair;
constexpr int kQuadBytes = kQuadNumbers * 3 / 2;
constexpr int kOwnBits = 0x87ff, kLentFrom = 11;  // of a word: its own number's, and where the fourth vector's four begin

// What of a chunk must be minded, in the order of what that costs.
enum ChunkKind : int { PLAIN, WITH_ZEROS, WITH_FAR };

// Of Weight::scale, [pair][depth / 32].
struct Bf16In12BitsGroup {
    uint32_t first;  // of its far numbers, in Weight::offset
    uint16_t far;    // how many, in the order of their places
    uint8_t lowest;
    uint8_t kinds;  // of its two chunks, a half byte each

    int kind(int chunk) const { return kinds >> 4 * (chunk % 2) & 15; }
};

inline bool has_zeros_near(int lowest) { return lowest % kNearExponents == 0; }

struct FarNumber {
    uint16_t place;  // in the group: 64 * (depth / 2) + 2 * column + depth % 2
    bf16 number;
};

// What a weight has room for: one for each group, and a few. More would make it slow before they made it large.
inline int64_t most_far(int pairs, int depth) { return int64_t(pairs) * ceil_div(depth, kGroup) + 64; }

inline int64_t bf16_12bit_group(const Weight& w, int pair, int k) {
    return int64_t(pair) * ceil_div(w.depth, kGroup) + k / kGroup;
}

// The 128 numbers of four neighbours, in the order of W_BF16 with two neighbours together; wrong ones where they are far.
inline void decode_quad(const uint16_t* words, int lowest, uint16_t* numbers) {
    auto number = [&](int bits) { return uint16_t((bits & kOwnBits) + (bits & 0x7ff ? lowest << 7 : 0)); };
    auto lent = [&](int i) { return words[i] >> kLentFrom & 15; };
    for (int i = 0; i < 96; ++i) numbers[i] = number(words[i]);
    for (int i = 0; i < 32; ++i)
        numbers[96 + i] = number((lent(64 + i) & 8) << 12 | lent(i) << 7 | lent(32 + i) << 3 | (lent(64 + i) & 7));
}

// Those of a group's that are in `chunk`, whole, among the chunk's numbers as `decode_quad` gave them.
inline void put_far(const Bf16In12BitsGroup& group, const FarNumber* all, int chunk, uint16_t* numbers) {
    constexpr int kNumbers = kBf16In12BitsChunk * kPair;
    const int first = chunk % (kGroup / kBf16In12BitsChunk) * kNumbers;
    for (const FarNumber *far = all + group.first, *end = far + group.far; far < end; ++far)
        if (far->place / kNumbers * kNumbers == first) numbers[far->place - first] = far->number.bits;
}

struct GroupOfPair {
    alignas(64) uint16_t numbers[kGroupNumbers];  // [32 / 2][column][2]

    // Decodes the group at depth `k`; values past the depth are unspecified.
    GroupOfPair(const Weight& w, int pair, int k) {
        const Bf16In12BitsGroup& group = static_cast<const Bf16In12BitsGroup*>(w.scale)[bf16_12bit_group(w, pair, k)];
        const auto* words = reinterpret_cast<const uint16_t*>(pair_data(w, pair) + int64_t(k / 4) * kQuadBytes);
        for (int i = 0; i < kGroupNumbers; i += kQuadNumbers, words += kQuadBytes / 2)
            decode_quad(words, group.lowest, numbers + i);
        const FarNumber* far = static_cast<const FarNumber*>(w.offset) + group.first;
        for (int i = 0; i < group.far; ++i) numbers[far[i].place] = far[i].number.bits;
    }
    bf16 at(int column, int i) const { return {numbers[i / 2 * kStepNumbers + 2 * column + i % 2]}; }
};

inline bool is_zero(uint16_t number) { return !(number & 0x7fff); }

// Least and largest of a step's numbers without their signs, in `least` and `most`.
inline void look_at_step(const uint16_t* numbers, uint16_t& least, uint16_t& most) {
    uint16_t low = 0x7fff, high = 0;
    for (int i = 0; i < kStepNumbers; ++i) {
        const uint16_t number = numbers[i] & 0x7fff;
        low = std::min(low, number), high = std::max(high, number);
    }
    least = std::min(least, low), most = std::max(most, high);
}

// The lowest of 16 neighbouring exponents with which most of `count` numbers, whole steps, are near; of several the first.
inline int lowest_exponent(const uint16_t* numbers, int count) {
    uint16_t least = 0x7fff, largest = 0;
    for (int i = 0; i < count; i += kStepNumbers) look_at_step(numbers + i, least, largest);
    // All exponents are near each other, as in most groups of a trained model: no need to count them.
    if (least && largest >> 7 < (least >> 7) + kNearExponents - 1) return std::max(0, (largest >> 7) - kNearExponents + 1);
    int of[256 + 1] = {}, powers[256] = {}, zeros = 0, most = -1, lowest = 0;
    for (int i = 0; i < count; ++i) {
        const int exponent = numbers[i] >> 7 & 255;
        if (is_zero(numbers[i])) ++zeros;
        else ++of[exponent], powers[exponent] += !(numbers[i] & 127);
    }
    int within = std::accumulate(of, of + kNearExponents, 0);
    for (int e = 0; e + kNearExponents <= 256; within += of[e + kNearExponents] - of[e], ++e) {
        const int near = within - powers[e] + (has_zeros_near(e) ? zeros : 0);
        if (near > most) most = near, lowest = e;
    }
    return lowest;
}

inline int chunk_kind(uint16_t number, int lowest) {
    if (is_zero(number) && has_zeros_near(lowest)) return lowest ? WITH_ZEROS : PLAIN;
    const int up = (number & 0x7fff) - (lowest << 7);
    return up > 0 && up < kNearExponents << 7 ? PLAIN : WITH_FAR;
}

// 128 numbers as 96 words. Loops of a known length over memory that is not the same: vectors.
inline void encode_quad(const uint16_t* __restrict numbers, int lowest, uint16_t* __restrict words) {
    uint16_t own[kQuadNumbers];
    const uint16_t base = uint16_t(lowest << 7);
    for (int i = 0; i < kQuadNumbers; ++i) own[i] = uint16_t((numbers[i] - (numbers[i] & 0x7fff ? base : 0)) & kOwnBits);
    const uint16_t* fourth = own + 96;
    for (int i = 0; i < 32; ++i) words[i] = uint16_t(own[i] | (fourth[i] >> 7 & 15) << kLentFrom);
    for (int i = 0; i < 32; ++i) words[32 + i] = uint16_t(own[32 + i] | (fourth[i] >> 3 & 15) << kLentFrom);
    for (int i = 0; i < 32; ++i) words[64 + i] = uint16_t(own[64 + i] | (fourth[i] >> 15 << 3 | (fourth[i] & 7)) << kLentFrom);
}

// Whether a step's numbers are all near and none is a zero, as `chunk_kind` says of each.
inline bool all_plain(const uint16_t* numbers, int lowest) {
    uint16_t furthest = 0;
    for (int i = 0; i < kStepNumbers; ++i) furthest = std::max(furthest, uint16_t((numbers[i] & 0x7fff) - (lowest << 7) - 1));
    return furthest < (kNearExponents << 7) - 1;
}

// `count` numbers of a group, in the order of W_BF16 with two neighbours together; far ones to `far`.
inline Bf16In12BitsGroup encode_group(const uint16_t* numbers, int count, char* to, FarNumber* far) {
    const int lowest = lowest_exponent(numbers, count);
    for (int i = 0; i < count; i += kQuadNumbers, to += kQuadBytes)
        encode_quad(numbers + i, lowest, reinterpret_cast<uint16_t*>(to));
    Bf16In12BitsGroup group{0, 0, uint8_t(lowest), 0};
    int kinds[2] = {};
    for (int step = 0; step < count; step += kStepNumbers) {
        if (all_plain(numbers + step, lowest)) continue;
        int& of_chunk = kinds[step / (kBf16In12BitsChunk * kPair)];
        for (int i = step; i < step + kStepNumbers; ++i) {
            const int kind = chunk_kind(numbers[i], lowest);
            if (kind == WITH_FAR) far[group.far++] = {uint16_t(i), {numbers[i]}};
            of_chunk = std::max(of_chunk, kind);
        }
    }
    group.kinds = uint8_t(kinds[1] << 4 | kinds[0]);
    return group;
}

// Numbers of one pair, depth filled up to whole groups. False where `taken`, the far numbers of all pairs, passes what there
// is room for.
inline bool encode_pair(const Weight& w, int pair, const uint16_t* numbers, std::atomic<int64_t>& taken) {
    char* to = const_cast<char*>(pair_data(w, pair));
    auto* groups = static_cast<Bf16In12BitsGroup*>(const_cast<void*>(w.scale));
    auto* apart = static_cast<FarNumber*>(const_cast<void*>(w.offset));
    const int64_t room = most_far(pairs_of(w), w.depth);
    FarNumber far[kGroupNumbers];
    for (int k = 0; k < w.depth; k += kGroup, numbers += kGroupNumbers, to += kGroup / 4 * kQuadBytes) {
        const int count = ceil_div(std::min(kGroup, w.depth - k), 2) * kStepNumbers;
        Bf16In12BitsGroup group = encode_group(numbers, count, to, far);
        const int64_t first = group.far ? taken.fetch_add(group.far) : 0;
        if (first + group.far > room) return false;
        group.first = uint32_t(first);
        groups[bf16_12bit_group(w, pair, k)] = group;
        std::memcpy(apart + first, far, group.far * sizeof(FarNumber));
    }
    return true;
}

}  // namespace weft
