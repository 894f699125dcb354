// Packing: rows of a matrix [columns, depth] as they were loaded, into the panels that weight.h describes.
#pragma once

#include <type_traits>
#include <vector>

#include "kernels/quant/lossless_bf16.h"
#include "kernels/quant/pack_int.h"
#include "runtime/pool.h"
#include "kernels/quant/weight.h"

namespace weft {

// Bytes of Weight::scale and Weight::offset.
inline int64_t scale_bytes(int kind, int pairs, int depth) {
    const int64_t groups = int64_t(pairs) * ceil_div(depth, kGroup);
    if (kind == W_INT8) return int64_t(pairs) * kPair * 4;
    if (kind == W_BF16_12BIT) return groups * int64_t(sizeof(Bf16In12BitsGroup));
    return grouped(kind) ? groups * kPair * 2 : 0;
}
inline int64_t offset_bytes(int kind, int pairs, int depth) {
    if (kind == W_BF16_12BIT) return most_far(pairs, depth) * int64_t(sizeof(FarNumber));
    return kind == W_INT4 ? scale_bytes(kind, pairs, depth) : 0;
}

// Source rows of the sixteen columns of a panel; null where there is no column. `peak`: see pack_codes.
struct PanelRows {
    const char* row[16];
    const float* peak[16];
};

inline PanelRows rows_of_panel(const Weight& w, const char* from, int64_t stride_bytes, int pair, int panel,
                               const float* peaks = nullptr) {
    PanelRows rows;
    for (int i = 0; i < 16; ++i) {
        int half = w.columns / 2, at = w.interleaved ? pair * 16 + i : pair * kPair + panel * 16 + i;
        bool there = at < (w.interleaved ? half : w.columns);
        int64_t row = w.interleaved ? panel * half + at : at;
        rows.row[i] = there ? from + row * stride_bytes : nullptr;
        rows.peak[i] = there && peaks ? peaks + row : nullptr;
    }
    return rows;
}

// Sixteen rows of 32-bit words, transposed; `Together` words of the 16 rows lie together.
template <int Together> void transpose_words(const uint32_t* const rows[16], int words, uint32_t* out) {
    constexpr int W = kWidth<float>;
    auto place = [](int word) { return int64_t(word / Together) * Together * kPair + word % Together * 16; };
    int whole = words / W * W;
    for (int lane = 0; lane < 16; lane += W)
        for (int j = 0; j < whole; j += W) {
            Vec<float> square[W];
            for (int r = 0; r < W; ++r) square[r] = load(reinterpret_cast<const float*>(rows[lane + r] + j));
            transpose<float>(square);
            for (int r = 0; r < W; ++r) store(reinterpret_cast<float*>(out + place(j + r) + lane), square[r]);
        }
    for (int j = whole; j < words; ++j)
        for (int r = 0; r < 16; ++r) std::memcpy(out + place(j) + r, rows[r] + j, 4);
    for (int j = words; j % Together; ++j) std::memset(out + place(j), 0, 64);
}

inline void narrow(double x, bf16& y) { narrow(float(x), y); }

// A panel of W_BF16 or W_F32 out of rows of S; `buffer` holds 17 rows of the packed type.
template <int Together, class S, class D> void pack_words(const PanelRows& rows, int depth, D* buffer, uint32_t* out) {
    int each = ceil_div(depth, 4 / int(sizeof(D))) * (4 / int(sizeof(D)));
    const uint32_t* words[16];
    std::memset(buffer + 16 * int64_t(each), 0, each * sizeof(D));
    bool as_it_is = sizeof(S) == sizeof(D) && each == depth;
    for (int r = 0; r < 16; ++r) {
        D* own = buffer + r * int64_t(each);
        const S* row = reinterpret_cast<const S*>(rows.row[r]);
        words[r] = reinterpret_cast<const uint32_t*>(!row ? buffer + 16 * int64_t(each) : as_it_is ? (const D*)row : own);
        if (!row || as_it_is) continue;
        for (int k = 0; k < depth; ++k) {
            if constexpr (std::is_same_v<S, D>) own[k] = row[k];  // whatever its bits are
            else narrow(widen(row[k]), own[k]);
        }
        for (int k = depth; k < each; ++k) own[k] = D{};
    }
    transpose_words<Together>(words, each * int(sizeof(D)) / 4, out);
}

template <class S> void pack_doubles(const PanelRows& rows, int depth, double* out) {
    for (int r = 0; r < 16; ++r) {
        const S* row = reinterpret_cast<const S*>(rows.row[r]);
        for (int k = 0; k < depth; ++k) out[int64_t(k) * kPair + r] = row ? double(widen(row[k])) : 0.0;
    }
}

template <class S> void pack_panel(const Weight& w, const PanelRows& rows, int pair, int panel) {
    char* to = const_cast<char*>(pair_data(w, pair));
    if (w.kind == W_F64) return pack_doubles<S>(rows, w.depth, reinterpret_cast<double*>(to) + panel * 16);
    uint32_t* words = reinterpret_cast<uint32_t*>(to);
    std::vector<float> buffer(17 * (int64_t(w.depth) + 1));
    if (w.kind == W_BF16)
        return pack_words<kTogether, S>(rows, w.depth, reinterpret_cast<bf16*>(buffer.data()),
                                        words + pair_word(0, panel * 16));
    if constexpr (sizeof(S) <= 4) return pack_words<1, S>(rows, w.depth, buffer.data(), words + panel * 16);
}

template <class S>
bool pack_pair_bf16_12bit(const Weight& w, const char* from, int64_t stride_bytes, int pair, std::atomic<int64_t>& far) {
    std::vector<float> buffer(17 * (int64_t(w.depth) + 1));
    std::vector<uint32_t> words(int64_t(ceil_div(w.depth, kGroup)) * kGroup / 2 * kPair);
    PanelRows panels[2] = {rows_of_panel(w, from, stride_bytes, pair, 0), rows_of_panel(w, from, stride_bytes, pair, 1)};
    for (PanelRows& panel : panels)
        for (const char*& row : panel.row)
            if (!row) row = panels[0].row[0];  // zeros would have to be minded
    for (int i = 0; i < 2; ++i)
        pack_words<1, S>(panels[i], w.depth, reinterpret_cast<bf16*>(buffer.data()), words.data() + i * 16);
    for (int c = 0; c < kPair && w.depth % 2; ++c) words[int64_t(w.depth / 2) * kPair + c] *= 0x10001;  // the same
    return encode_pair(w, pair, reinterpret_cast<const uint16_t*>(words.data()), far);
}

// False where more numbers are far than `w` has room for.
inline bool pack_bf16_12bit(const Weight& w, const char* from, int format, int64_t stride_bytes, Pool* pool) {
    auto pack_pair = format == FROM_BF16  ? pack_pair_bf16_12bit<bf16>
                     : format == FROM_F64 ? pack_pair_bf16_12bit<double>
                                          : pack_pair_bf16_12bit<float>;
    std::atomic<int64_t> far{0};
    std::atomic<bool> fits{true};
    parallel_for(pool, pairs_of(w), [&](int pair) {
        if (fits && !pack_pair(w, from, stride_bytes, pair, far)) fits = false;
    });
    return fits;
}

// Fills `w`, whose memory is there, from `from` in `format`; `stride_bytes` from row to row of it. `peaks`, for W_INT8: of
// each row; null: of what is packed. False where `w` is of a kind that does not suit the numbers.
inline bool pack(const Weight& w, const char* from, int format, int64_t stride_bytes, const float* peaks, Pool* pool) {
    if (w.kind == W_BF16_12BIT) return pack_bf16_12bit(w, from, format, stride_bytes, pool);
    const bool codes = rounded(w.kind);
    parallel_for(pool, 2 * pairs_of(w), [&](int i) {
        PanelRows rows = rows_of_panel(w, from, stride_bytes, i / 2, i % 2, peaks);
        if (codes) pack_codes(w, rows.row, rows.peak, format, i / 2, i % 2);
        else if (format == FROM_BF16) pack_panel<bf16>(w, rows, i / 2, i % 2);
        else if (format == FROM_F64) pack_panel<double>(w, rows, i / 2, i % 2);
        else pack_panel<float>(w, rows, i / 2, i % 2);
    });
    return true;
}

}  // namespace weft
