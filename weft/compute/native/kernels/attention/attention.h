// ATTENTION: units one after the other, each thread's own first.
#pragma once

#include "kernels/attention/attention_packed.h"
#include "kernels/attention/attention_plain.h"

namespace weft {

template <class Kind> inline void attend(const Instruction& i, const Step& step, const TeamMember& me) {
    char* workspace = static_cast<char*>(const_cast<void*>(i.p[WORKSPACE]));
    const int chunks = workspace ? i.n[WORK_CHUNKS] : 0;
    const int64_t place = Meeting::bytes(chunks, kAttentionRows, i.n[HEAD_DIM]);
    Units all(i, step, Kind::kRows, workspace && Kind::kMeets ? me.threads : 0, chunks);
    Kind kind(i, step);
    const std::vector<Unit>* units = nullptr;
    auto of_owner = [&](int owner) {
        units = &all.of(owner, me.threads);
        return int64_t(units->size());
    };
    me.run_units(of_owner, [&](int, int64_t from, int64_t to) {
        for (size_t u = from; u < size_t(to); ++u)
            kind.run((*units)[u], u + 1 < units->size() ? &(*units)[u + 1] : nullptr,
                     (*units)[u].whole() ? nullptr : reinterpret_cast<Meeting*>(workspace + (*units)[u].slot * place));
    });
}

inline void attention(const Instruction& i, const Step& step, const TeamMember& me) {
    if (i.n[PACKED_CACHE]) return attend<PackedAttention>(i, step, me);
    if (i.exact) return attend<PlainAttention<float, double, double>>(i, step, me);
    switch (i.in[0].dtype) {
        case BF16: return attend<PlainAttention<bf16, bf16, float>>(i, step, me);
        case F64: return attend<PlainAttention<double, double, double>>(i, step, me);
        default: return attend<PlainAttention<float, float, float>>(i, step, me);
    }
}

// Attention of all rows, or of the sampled ones where n[TABLE] is their table: in[0] then holds no others.
inline void attention_of_table(const Instruction& i, const Step& step, const TeamMember& me) {
    if (!i.n[TABLE]) return attention(i, step, me);
    Step sampled = step;
    sampled.positions = step.sampled_positions, sampled.row_ends = step.sampled_row_ends;
    attention(i, sampled, me);
}

// Partial outputs of all rows of the attention-dp group, or of the sampled ones.
inline void partial_attention(const Instruction& i, const Step& step, const TeamMember& me) {
    if (i.n[TABLE]) return attention_of_table(i, step, me);
    Step group = step;
    group.positions = step.group_positions;
    attention(i, group, me);
}

}  // namespace weft

// Bytes of the workspace of ATTENTION for `threads` threads and `positions` positions (to be zeroed once), and in
// `chunks` what n[WORK_CHUNKS] must say. One serves all instructions of a program.
WEFT_C int64_t weft_attention_workspace(int threads, int64_t positions, int dim, int32_t* chunks) {
    *chunks = int32_t((positions + weft::kChunk - 1) / weft::kChunk);
    return threads * weft::Meeting::bytes(*chunks, weft::kAttentionRows, dim);
}
