// A step in which every row of an attention block is a stream's: its inputs are made of three columns and of what is kept
// for every slot, its program is run, and each row's token is chosen, by whichever rank has its logits. Answer key:
// weft/worker/inputs.py and runner.py.
#pragma once

#include <string.h>

#include <algorithm>
#include <cmath>

#include "program.h"
#include "sampling.h"

namespace weft {

// Of every row the token, or of none: they want more, or are not finite. From logits, or before they were brought together.
enum Chose : int32_t { CHOSE_NONE = 0, CHOSE_FROM_LOGITS = 1, CHOSE_LARGEST = 2 };

struct Decode {
    const int64_t* columns;  // [3, rows]: slot, position, tokens that the request had generated
    int64_t rows, slots, block_size, table_width;
    int32_t* tables;    // [slots, table_width]: blocks of each slot
    int64_t* highest;   // of all blocks that ever came
    int64_t* last_ids;  // [slots]: the token that each slot was given last
    // Where a Step of these rows finds its inputs; room for a row of each slot.
    int64_t* ids;
    int32_t *positions, *places, *block_tables;
    const SamplingTable* sampling;  // null: nothing is chosen here
    const int64_t* chosen_from;     // [slots]: from which output position on a slot's token can be chosen here
    const float* logits;            // [rows, vocabulary]
    int64_t vocabulary;
    int64_t own_first, own_count;  // rows that this rank samples
    double* values;                // [own_count, 2]: of these, id and whether the logits were finite; room for every slot
    int64_t* chosen;               // [rows]: results
    // Ranks that choose tokens of these rows, and this one's place among them; 0 members: it chooses all.
    int32_t group, members, position;
    int32_t chose;           // result, a Chose
    const int64_t* rows_of;  // [members]
    double* all_values;      // [members]: room for those of every slot
    // The columns of all rows' logits that the last instruction takes from this rank, as it brings the members' together;
    // null where it is none that does. Where each row takes its largest logit that instruction is left out.
    const float* own_logits;  // [rows, own_columns]
    int64_t own_columns, first_column;
};

// The widest table that the rows need, in blocks; 0 where a row is beyond what there is.
inline int64_t width_of(const Decode& d, const int64_t* slot, const int64_t* start) {
    int64_t last = 0;
    for (int64_t r = 0; r < d.rows; ++r) {
        if (uint64_t(slot[r]) >= uint64_t(d.slots) || start[r] < 0) return 0;
        last = std::max(last, start[r]);
    }
    const int64_t width = last / d.block_size + 1;
    return d.rows <= d.slots && width <= d.table_width ? width : 0;
}

inline void fill_inputs(const Decode& d, const int64_t* slot, const int64_t* start, int64_t width) {
    for (int64_t r = 0; r < d.rows; ++r) {
        const int32_t* table = d.tables + slot[r] * d.table_width;
        memcpy(d.block_tables + r * width, table, width * sizeof(*table));
        d.ids[r] = d.last_ids[slot[r]];
        d.positions[r] = int32_t(start[r]);
        d.places[r] = int32_t(table[start[r] / d.block_size] * d.block_size + start[r] % d.block_size);
    }
}

// Values [rows, 2] of every row, or null: `code` is then what the exchange gave.
inline const double* every_value(const Decode& d, Program* program, int& code) {
    if (!d.members) return d.values;
    char *outs[MAX_MEMBERS], *at = reinterpret_cast<char*>(d.all_values);
    uint64_t bytes[MAX_MEMBERS];
    for (int m = 0; m < d.members; ++m) {
        outs[m] = at, bytes[m] = uint64_t(d.rows_of[m]) * 2 * sizeof(double);
        at += bytes[m];
    }
    code = program->all_gather(uint32_t(d.group), d.position, d.values, outs, bytes, d.members, comm_dtype(F64));
    return code ? nullptr : d.all_values;
}

inline bool can_choose(const Decode& d) {
    const int64_t *slot = d.columns, *output_position = slot + 2 * d.rows;
    bool all = d.sampling;
    for (int64_t r = 0; r < d.rows && all; ++r) all = output_position[r] >= d.chosen_from[slot[r]];
    return all;
}

inline int choose(Decode& d, Program* program) {
    const int64_t *slot = d.columns + d.own_first, *output_position = slot + 2 * d.rows;
    if (d.own_count)
        sample({d.logits, d.vocabulary, d.own_count, d.vocabulary, *d.sampling, slot, output_position, d.values, 2},
               program->pool());
    int code = 0;
    const double* values = every_value(d, program, code);
    if (!values) return code;
    bool finite = true;
    for (int64_t r = 0; r < d.rows; ++r) finite &= values[2 * r + 1] != 0;
    for (int64_t r = 0; r < d.rows && finite; ++r) d.last_ids[d.columns[r]] = d.chosen[r] = int64_t(values[2 * r]);
    d.chose = finite ? CHOSE_FROM_LOGITS : CHOSE_NONE;
    return 0;
}

// Whether every row's token is that of its largest logit, which members find each in its own columns.
inline bool takes_largest(const Decode& d) {
    bool all = d.members && d.own_logits && can_choose(d);
    for (int64_t r = 0; r < d.rows && all; ++r) all = d.sampling->temperature[d.columns[r]] == 0;
    return all;
}

// Of each row the id of the largest logit among this rank's columns, and the logit: none where one is not finite.
inline void find_largest(const Decode& d, Pool* pool) {
    const int64_t *slot = d.columns, *output_position = slot + 2 * d.rows;
    sample({d.own_logits, d.own_columns, d.rows, d.own_columns, *d.sampling, slot, output_position, d.values, 2}, pool);
    for (int64_t r = 0; r < d.rows; ++r) {
        double* const id_logit = d.values + 2 * r;
        id_logit[1] = id_logit[1] ? double(d.own_logits[r * d.own_columns + int64_t(id_logit[0])]) : NAN;
        id_logit[0] += double(d.first_column);
    }
}

// Of equal ones the first id's, as in a whole row.
inline const double* larger(const double* a, const double* b) { return b[1] > a[1] || (b[1] == a[1] && b[0] < a[0]) ? b : a; }

// As `choose`, of a step that left the last instruction out; where a logit is not finite it is run now.
inline int choose_largest(Decode& d, Program* program, const Step& step) {
    find_largest(d, program->pool());
    char* outs[MAX_MEMBERS];
    uint64_t bytes[MAX_MEMBERS];
    for (int m = 0; m < d.members; ++m) {
        bytes[m] = uint64_t(d.rows) * 2 * sizeof(double);
        outs[m] = reinterpret_cast<char*>(d.all_values) + m * bytes[m];
    }
    if (const int code = program->all_gather(uint32_t(d.group), d.position, d.values, outs, bytes, d.members, comm_dtype(F64)))
        return code;
    bool finite = true;
    for (int64_t r = 0; r < d.rows; ++r) {
        const double* best = d.all_values + 2 * r;
        for (int m = 0; m < d.members; ++m) {
            const double* const one = d.all_values + 2 * (m * d.rows + r);
            finite = finite && !std::isnan(one[1]);
            best = larger(best, one);
        }
        d.chosen[r] = int64_t(best[0]);
    }
    if (!finite) return program->run_last(step);
    d.chose = CHOSE_LARGEST;
    for (int64_t r = 0; r < d.rows; ++r) d.last_ids[d.columns[r]] = d.chosen[r];
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
    const bool largest = takes_largest(d);
    const int code = program->run(*step, largest);
    d.chose = CHOSE_NONE;
    if (code || !can_choose(d)) return code;
    return largest ? choose_largest(d, program, *step) : choose(d, program);
}

}  // namespace weft

WEFT_C int weft_program_decode(weft::Program* program, weft::Step* step, weft::Decode* decode) {
    return weft::decode_step(program, step, *decode);
}
