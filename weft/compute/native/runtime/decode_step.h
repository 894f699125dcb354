// A step in which every row of an attention block is a stream's: its inputs are made of three columns and of what is kept
// for every slot, its program is run, and each row's token is chosen, by whichever rank has its logits. Answer key:
// weft/runtime/worker/tensors/inputs.py and runner.py.
#pragma once

#include <string.h>

#include <algorithm>
#include <cmath>

#include "runtime/program.h"
#include "kernels/sampling/sampling.h"

namespace weft {

// The widest table that the rows need, in blocks; 0 where a row is beyond what there is.
inline int64_t width_of(const Decode& d, const int64_t* slot, const int64_t* start) {
    int64_t last = 0;
    for (int64_t r = 0; r < d.rows; ++r) {
        if (uint64_t(slot[r]) >= uint64_t(d.slots) || start[r] < 0) return 0;
        last = std::max(last, start[r]);
    }
    const int64_t width = last / (d.block_size * d.owners) + 1;
    return d.rows <= d.slots && width <= d.table_width ? width : 0;
}

inline void fill_inputs(const Decode& d, const int64_t* slot, const int64_t* start, int64_t width) {
    for (int64_t r = 0; r < d.rows; ++r) {
        const int32_t* table = d.tables + slot[r] * d.table_width;
        memcpy(d.block_tables + r * width, table, width * sizeof(*table));
        d.ids[r] = d.last_ids[slot[r]];
        d.positions[r] = int32_t(start[r]);
        const int64_t block = start[r] / d.block_size;
        // what other owners keep goes to the null block
        d.places[r] =
            block % d.owners == d.owner ? int32_t(table[block / d.owners] * d.block_size + start[r] % d.block_size) : 0;
    }
}

inline bool can_choose(const Decode& d) {
    const int64_t *slot = d.columns, *output_position = slot + 2 * d.rows;
    bool all = d.sampling;
    for (int64_t r = 0; r < d.rows && all; ++r) all = output_position[r] >= d.chosen_from[slot[r]];
    return all;
}

inline bool has_grammar(const Decode& d, int64_t slot) { return d.grammars && d.has_grammar[slot]; }

// Whether every row that can be chosen takes its largest logit, which members find each in its own columns: those that
// the last instruction would take from this rank. Logits stay where they are.
inline bool takes_largest(const Decode& d) {
    bool all = d.local_logits && d.members;
    for (int64_t r = 0; r < d.rows && all; ++r)
        all = d.sampling->temperature[d.columns[r]] == 0 && !has_grammar(d, d.columns[r]);
    return all;
}

// Gathers every member's `values` into `all_values`, in member order; `rows_of(member)`: its rows. Returns the exchange's
// result.
template <class RowsOf> inline int gather_values(const Decode& d, Program* program, RowsOf rows_of) {
    char *outs[MAX_MEMBERS], *at = reinterpret_cast<char*>(d.all_values);
    uint64_t bytes[MAX_MEMBERS];
    for (int m = 0; m < d.members; ++m) {
        outs[m] = at, bytes[m] = uint64_t(rows_of(m)) * 2 * sizeof(double);
        at += bytes[m];
    }
    return program->all_gather(uint32_t(d.group), d.position, d.values, outs, bytes, d.members, comm_dtype(F64));
}

// Masks of `count` rows; whether there is any, or should be.
inline bool take_masks(const Decode& d, const int64_t* slot, int64_t count) {
    bool any = false;
    for (int64_t r = 0; r < count && d.grammars; ++r) {
        const bool has = has_grammar(d, slot[r]);
        d.masks[r] = has ? d.mask(slot[r]) : nullptr;
        any |= has;
    }
    return any;
}

// Of `count` rows from row `first` on, id and whether it could be chosen here, to `values`: not where a logit is not finite,
// or a grammar gave no mask.
inline void sample_into_values(const Decode& d, const float* logits, int64_t columns, int64_t first, int64_t count,
                               Pool* pool) {
    const int64_t *slot = d.columns + first, *output_position = slot + 2 * d.rows;
    const bool masked = take_masks(d, slot, count);
    sample({logits, columns, count, columns, *d.sampling, slot, output_position, d.values, 2, masked ? d.masks : nullptr},
           pool);
    for (int64_t r = 0; r < count && masked; ++r)
        if (has_grammar(d, slot[r]) && !d.masks[r]) d.values[2 * r + 1] = 0;
}

inline void take(Decode& d, int64_t row, double id) { d.last_ids[d.columns[row]] = d.chosen[row] = int64_t(id); }

inline void feed_grammars(const Decode& d) {
    for (int64_t r = 0; r < d.rows && d.grammars; ++r)
        if (has_grammar(d, d.columns[r])) d.feed(d.columns[r], d.chosen[r], r >= d.own_first && r < d.own_first + d.own_count);
}

// Each member chooses the tokens of its own rows.
inline int choose(Decode& d, Program* program) {
    if (d.own_count) sample_into_values(d, d.logits, d.vocabulary, d.own_first, d.own_count, program->pool());
    const double* values = d.members ? d.all_values : d.values;
    if (d.members)
        if (const int code = gather_values(d, program, [&](int m) { return d.rows_of[m]; })) return code;
    bool finite = true;
    for (int64_t r = 0; r < d.rows; ++r) finite &= values[2 * r + 1] != 0;
    for (int64_t r = 0; r < d.rows && finite; ++r) take(d, r, values[2 * r]);
    if (finite) feed_grammars(d);
    d.chose = finite ? CHOSE_FROM_LOGITS : CHOSE_NONE;
    return 0;
}

// Argmax over columns that members share: each sends, for every row, the column and value of its largest logit, or none where
// one is not finite. The step has skipped the gather of logits; where a logit is not finite it runs now.
inline int choose_largest(Decode& d, Program* program, const Step& step) {
    sample_into_values(d, d.local_logits, d.local_columns, 0, d.rows, program->pool());
    for (int64_t r = 0; r < d.rows; ++r) {
        double &id = d.values[2 * r], &logit = d.values[2 * r + 1];
        logit = logit ? double(d.local_logits[r * d.local_columns + int64_t(id)]) : NAN;
        id += double(d.first_column);
    }
    if (const int code = gather_values(d, program, [&](int) { return d.rows; })) return code;
    const auto value = [&](int member, int64_t r) { return d.all_values + 2 * (member * d.rows + r); };
    bool finite = true;
    for (int m = 0; m < d.members; ++m)
        for (int64_t r = 0; r < d.rows; ++r) finite &= !std::isnan(value(m, r)[1]);
    if (!finite) return program->run_last(step);
    for (int64_t r = 0; r < d.rows; ++r) {
        const double* best = value(0, r);
        for (int m = 1; m < d.members; ++m)  // in the order of their columns: of equal logits the first id's stays
            if (value(m, r)[1] > best[1]) best = value(m, r);
        take(d, r, best[0]);
    }
    d.chose = CHOSE_LARGEST;
    return 0;
}

constexpr int kBeyondTables = -1;

// `step` has the counts, and points to where `d` puts the inputs. 0, what the exchange gave that failed, or
// kBeyondTables: nothing was done.
inline int decode_step(Program* program, Step* step, Decode& d) {
    const int64_t *slot = d.columns, *start = slot + d.rows;
    const int64_t width = width_of(d, slot, start);
    if (!width) return kBeyondTables;
    fill_inputs(d, slot, start, width);
    step->table_width = int32_t(width);
    const bool can = can_choose(d), largest = can && takes_largest(d);
    const int code = program->run(*step, largest);
    d.chose = CHOSE_NONE;
    if (code || !can) return code;
    return largest ? choose_largest(d, program, *step) : choose(d, program);
}

}  // namespace weft

WEFT_C int weft_program_decode(weft::Program* program, weft::Step* step, weft::Decode* decode) {
    return weft::decode_step(program, step, *decode);
}
