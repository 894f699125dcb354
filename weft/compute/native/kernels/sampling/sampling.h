// Samples one token for each row of fp32 logits (row_sampler.h): threads split the rows, or the vocabulary of a single row.
#pragma once

#include "kernels/sampling/row_sampler.h"

namespace weft {

struct Sampling {
    const float* logits;
    int64_t stride;
    int64_t rows, size;
    SamplingTable table;
    const int64_t *slots, *positions;
    double* values;
    int64_t values_stride;
    // Of each row, bits of the ids that it may choose, or null: all; null where no row has any.
    const uint32_t* const* masks = nullptr;

    const uint32_t* mask(int64_t r) const { return masks ? masks[r] : nullptr; }
};

// At higher temperatures a forbidden id would have mass; all that are allowed have the same mass from far below.
constexpr float kWarmestMasked = 1e30f;

// After `row` was looked at; `largest`: the id of its largest logit, or -1 where it is to be looked for.
inline int id_of_row(const Sampling& job, int64_t r, RowSampler& row, int largest) {
    const int64_t slot = job.slots[r];
    const SamplingTable& t = job.table;
    if (t.temperature[slot] == 0) return largest < 0 ? row.largest_id() : largest;
    const float temperature = float(t.temperature[slot]);
    return row.draw(job.mask(r) ? std::min(temperature, kWarmestMasked) : temperature, t.top_k[slot], t.top_p[slot],
                    t.min_p[slot], counter_uniform(t.seed[slot], uint64_t(job.positions[r])));
}

// A row's logits where its mask has a bit, the lowest finite number elsewhere; memory of the thread, until the next call.
inline const float* allowed_logits(const float* logits, const uint32_t* mask, int64_t size) {
    static thread_local std::vector<float> allowed;
    allowed.resize(size);
    for (int64_t i = 0; i < size; i += 32) {
        const uint32_t word = mask[i / 32];
        const int count = int(std::min<int64_t>(32, size - i));
        if (!word) std::fill_n(allowed.begin() + i, count, -FLT_MAX);
        else
            for (int j = 0; j < count; ++j) allowed[i + j] = word >> j & 1 ? logits[i + j] : -FLT_MAX;
    }
    return allowed.data();
}

// The id of a row that has a mask and whose logits are finite.
inline int masked_id(const Sampling& job, int64_t r) {
    RowSampler row(allowed_logits(job.logits + r * job.stride, job.mask(r), job.size), int(job.size));
    row.look();
    return id_of_row(job, r, row, -1);
}

inline void sample_rows(const Sampling& job, const TeamMember& me) {
    me.run_evenly(job.rows, [&](int64_t from, int64_t to) {
        for (int64_t r = from; r < to; ++r) {
            RowSampler row(job.logits + r * job.stride, int(job.size));
            double* out = job.values + r * job.values_stride;
            out[1] = row.look();
            out[0] = !out[1] ? 0 : job.mask(r) ? masked_id(job, r) : id_of_row(job, r, row, -1);
        }
    });
}

// One row: each thread looks at a part of it, mostly the one that it computed.
struct RowInParts {
    struct alignas(64) Part {
        float top = -INFINITY;  // as it stays where a thread does not take part
        int id = 0;
        bool finite = true;
    };

    const Sampling& job;
    std::vector<Part> parts;

    void look(const TeamMember& me) {
        const EvenShare share = me.share(job.size);
        RowSampler part(job.logits + share.begin, int(share.end - share.begin));
        const bool finite = part.look();
        parts[me.thread] = {part.top(), finite ? int(share.begin) + part.largest_id() : 0, finite};
    }

    void sample() const {
        const Part* best = &parts[0];
        bool finite = true;
        for (const Part& part : parts) {
            finite = finite && part.finite;
            if (part.top > best->top) best = &part;
        }
        RowSampler row(job.logits, int(job.size));
        row.take_top(best->top);
        job.values[1] = finite;
        job.values[0] = finite ? id_of_row(job, 0, row, best->id) : 0;
    }
};

// On the caller alone where pool is null.
inline void sample(const Sampling& job, Pool* pool) {
    if (!pool || job.size < pool->threads()) return sample_rows(job, TeamMember(0, 1));
    if (job.rows == 1 && job.mask(0)) return sample_rows(job, TeamMember(0, 1));
    if (job.rows == 1) {
        RowInParts row{job, std::vector<RowInParts::Part>(pool->threads())};
        pool->run([](void* context, const TeamMember& me) { static_cast<RowInParts*>(context)->look(me); }, &row);
        return row.sample();
    }
    pool->run([](void* context, const TeamMember& me) { sample_rows(*static_cast<const Sampling*>(context), me); },
              const_cast<Sampling*>(&job));
}

}  // namespace weft

// Ids of rows of logits [rows, size] and whether the row is finite, to the first two of `values`'s columns. The rows'
// slots index the table; positions: how many tokens the request had generated; masks: see Sampling.
WEFT_C void weft_sample(weft::Pool* pool, const float* logits, int64_t stride, int64_t rows, int64_t size,
                        const weft::SamplingTable* table, const int64_t* slots, const int64_t* positions, double* values,
                        int64_t values_stride, const uint32_t* const* masks) {
    weft::sample({logits, stride, rows, size, *table, slots, positions, values, values_stride, masks}, pool);
}
