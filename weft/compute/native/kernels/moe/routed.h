// Expert parallel dispatch and combine: which rows go to which rank and which answers come back, computed from the choices
// of all rows of an expert block, which every rank has. The twin of weft/model/models/dispatch/all_to_all.py.
//
// A block has tp ranks at each of its ep positions, tp fastest; position p holds the slots [EDGES[p], EDGES[p + 1]). `DISPATCH`
// writes, besides what PLACE writes (of received rows, in the order of the block's rows):
//   SENT_ROWS        the own row of each row that is sent, position by position
//   SENT_ANSWERS     the place among sorted answers of each answer that is sent, in the order of the block's choices
//   out              where the answer to an own choice arrives, of what one of a position's ranks gives
//   ARRIVED_WEIGHTS  the router's weight of each that arrives
//   SIZES            [kind][at, count][member] in rows, then a total of each kind
#pragma once

#include "kernels/moe/experts.h"

namespace weft {

enum SizesOf : int { ROWS_SENT = 0, ROWS_TAKEN, ANSWERS_SENT, ANSWERS_TAKEN, KINDS };

// For each member where its part begins and how many rows it has.
struct Sizes {
    int64_t *at, *count, *total;
    Sizes(const void* table, int kind, int members) {
        int64_t* all = static_cast<int64_t*>(const_cast<void*>(table));
        at = all + kind * 2 * members;
        count = at + members;
        total = all + KINDS * 2 * members + kind;
    }
};

class DispatchPlan {
public:
    DispatchPlan(const Instruction& i, const Step& step)
        : i_(i), starts_(step.starts[i.n[TABLE]] + i.n[FIRST_RANK]), k_(i.n[TOP_K]), tp_(i.n[TP]), ep_(i.n[EP]),
          members_(tp_ * ep_), place_(i.n[PLACE_IN_BLOCK]), held_(i.n[HERE_HI] - i.n[HERE_LO]),
          rows_(starts_[members_] - starts_[0]), edges_(static_cast<const int64_t*>(i.p[EDGES])), ends_(out<int64_t>(ENDS)) {
        slots_ = scratch<DISPATCH>().take<int64_t>(size_t(rows_) * k_ + 3 * ep_);
        rows_to_ = slots_ + rows_ * k_;
        answers_from_ = rows_to_ + ep_;
        seen_ = answers_from_ + ep_;
    }

    template <class T> void run() {
        find_slots<T>();
        count();
        lay_out();
        write<T>();
    }

private:
    template <class O> O* out(int which) const { return static_cast<O*>(const_cast<void*>(i_.p[which])); }
    Sizes sizes(int kind) const { return Sizes(i_.p[SIZES], kind, members_); }
    int position_of(int64_t slot) const { return int(std::upper_bound(edges_, edges_ + ep_ + 1, slot) - edges_) - 1; }
    int64_t local(int64_t slot) const {
        const int64_t here = slot - i_.n[HERE_LO];
        return here >= 0 && here < held_ ? here : -1;
    }
    // f(row of the block) for the rows of a member.
    template <class F> void each_row(int member, F&& f) const {
        for (int64_t r = starts_[member] - starts_[0]; r < starts_[member + 1] - starts_[0]; ++r) f(r);
    }
    // f(position) once for each that a row goes to.
    template <class F> void each_position(int64_t row, F&& f) {
        for (int c = 0; c < k_; ++c) {
            const int position = position_of(slots_[row * k_ + c]);
            if (seen_[position] != row) f(position);
            seen_[position] = row;
        }
    }

    template <class T> void find_slots() {
        Slots slots(i_);
        for (int64_t r = 0; r < rows_; ++r)
            for (int c = 0; c < k_; ++c) slots_[r * k_ + c] = slots.next(int64_t(row_of<T>(i_.in[0], r)[c]));
        slots.count();
    }

    void count() {
        std::fill(ends_, ends_ + held_, 0);
        std::fill(rows_to_, rows_to_ + 2 * ep_, 0);
        std::fill(seen_, seen_ + ep_, -1);
        const Sizes rows = sizes(ROWS_TAKEN), answers = sizes(ANSWERS_SENT);
        for (int m = 0; m < members_; ++m) {
            rows.count[m] = answers.count[m] = 0;
            each_row(m, [&](int64_t r) {
                int64_t here = 0;
                for (int c = 0; c < k_; ++c)
                    if (const int64_t slot = local(slots_[r * k_ + c]); slot >= 0) ++here, ++ends_[slot];
                answers.count[m] += here;
                rows.count[m] += here > 0;
            });
        }
        each_row(place_, [&](int64_t r) {
            each_position(r, [&](int position) { ++rows_to_[position]; });
            for (int c = 0; c < k_; ++c) ++answers_from_[position_of(slots_[r * k_ + c])];
        });
    }

    // Offsets from counts. Answers of the second of a position's ranks follow all of the first's.
    void lay_out() {
        for (int m = 0; m < members_; ++m) {
            sizes(ROWS_SENT).count[m] = rows_to_[m / tp_];
            sizes(ANSWERS_TAKEN).count[m] = answers_from_[m / tp_];
        }
        for (int kind : {int(ROWS_TAKEN), int(ANSWERS_SENT)}) {
            const Sizes of = sizes(kind);
            int64_t total = 0;
            for (int m = 0; m < members_; ++m) of.at[m] = total, total += of.count[m];
            *of.total = total;
        }
        const int64_t own = (starts_[place_ + 1] - starts_[place_]) * k_;
        int64_t rows = 0, answers = 0;
        for (int p = 0; p < ep_; ++p) {
            for (int a = 0; a < tp_; ++a) {
                sizes(ROWS_SENT).at[p * tp_ + a] = rows;
                sizes(ANSWERS_TAKEN).at[p * tp_ + a] = a * own + answers;
            }
            const int64_t to = rows_to_[p], from = answers_from_[p];
            rows_to_[p] = rows, answers_from_[p] = answers;  // from here on where the next one goes
            rows += to, answers += from;
        }
        *sizes(ROWS_SENT).total = rows;
        *sizes(ANSWERS_TAKEN).total = answers;
    }

    template <class T> void write() {
        int64_t *starts = starts_of(ends_, held_), *order = out<int64_t>(ORDER), *sent = out<int64_t>(SENT_ANSWERS);
        double* weights = out<double>(SORTED_WEIGHTS);
        int64_t received = 0, answer = 0;
        for (int64_t r = 0; r < rows_; ++r) {
            const int64_t before = answer;
            for (int c = 0; c < k_; ++c) {
                const int64_t slot = local(slots_[r * k_ + c]);
                if (slot < 0) continue;
                const int64_t place = starts[slot]++;
                order[place] = received;
                weights[place] = double(row_of<T>(i_.in[0], r)[k_ + c]);
                sent[answer++] = place;
            }
            received += answer > before;
        }
        std::fill(seen_, seen_ + ep_, -1);
        const int64_t first = starts_[place_] - starts_[0];
        each_row(place_, [&](int64_t r) {
            each_position(r, [&](int position) { out<int64_t>(SENT_ROWS)[rows_to_[position]++] = r - first; });
            for (int c = 0; c < k_; ++c) {
                const int64_t place = answers_from_[position_of(slots_[r * k_ + c])]++;
                row_of<int64_t>(i_.out, r - first)[c] = place;
                out<double>(ARRIVED_WEIGHTS)[place] = double(row_of<T>(i_.in[0], r)[k_ + c]);
            }
        });
    }

    const Instruction& i_;
    const int64_t* starts_;
    const int k_, tp_, ep_, members_, place_;
    const int64_t held_, rows_;
    const int64_t* edges_;
    int64_t *ends_, *slots_, *rows_to_, *answers_from_, *seen_;
};

// On one thread, as `place_choices`.
inline void plan_dispatch(const Instruction& i, const Step& step, const TeamMember& me) {
    if (me.thread) return;
    DispatchPlan plan(i, step);
    with_choices(i.in[0], [&](auto tag) { plan.run<typename decltype(tag)::type>(); });
}

}  // namespace weft
