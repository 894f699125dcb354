// Several linear operations with no barrier between them, for they share no result: those of experts, and of MLA's heads.
#pragma once

#include "kernels/gemm/gemm.h"

namespace weft {

// Set: count() operations; of each weight(i), rows(i), instruction(i), which differs from `common` in its operands' places.
// Weights of a set have one shape and one kind. Operations take turns in which thread gets the larger share; a thread's
// units are its parts of one after the other.
template <class Set> class ManyLinears {
public:
    ManyLinears(const Set& set, const Instruction& common, int threads) : set_(set), common_(common), threads_(threads) {
        int64_t most = 0;
        for (int i = 0; i < set.count(); ++i) most = std::max(most, set.rows(i).count);
        with_product(common, set.weight(0), [&](const auto& product) { near_ = product.near(most); });
    }

    // Of all operations. Remembers where each one's begin: run() is for the owner that was asked for last.
    int64_t units(int owner) {
        ends_ = scratch<ENDS_SCRATCH>().take<int64_t>(set_.count());
        int64_t end = 0;
        for (int i = 0; i < set_.count(); ++i) ends_[i] = end += set_.rows(i).count ? parts(i, owner).count() : 0;
        return end;
    }

    void run(int owner, int64_t from, int64_t to) {
        int i = int(std::upper_bound(ends_, ends_ + set_.count(), from) - ends_);
        for (int64_t before, end; from < to; from = end, ++i) {
            before = i ? ends_[i - 1] : 0, end = std::min(to, ends_[i]);
            if (from == end) continue;
            with_product(set_.instruction(i), set_.weight(i),
                         [&](auto product) { parts(i, owner).run(product, from - before, end - before); });
        }
    }

private:
    LinearParts parts(int i, int owner) const {
        return parts_of(common_, set_.weight(i), set_.rows(i), near_, (owner + i) % threads_, threads_);
    }

    const Set& set_;
    const Instruction& common_;
    const int threads_;
    int64_t near_ = 0;
    int64_t* ends_ = nullptr;
};

template <class Set> inline void many_linears(const Set& set, const Instruction& common, const TeamMember& me) {
    if (!set.count()) return;
    ManyLinears<Set> all(set, common, me.threads);
    me.run_units([&](int owner) { return all.units(owner); },
                 [&](int owner, int64_t from, int64_t to) { all.run(owner, from, to); });
}

// Rows sorted by slot, each slot's times its own weight: rows [ends[s - 1], ends[s]) with weights[s].
class SlotLinears {
public:
    explicit SlotLinears(const Instruction& instruction)
        : instruction_(instruction), weights_(static_cast<const Weight* const*>(instruction.p[WEIGHTS])),
          ends_(static_cast<const int64_t*>(instruction.p[ENDS])) {}

    int count() const { return instruction_.n[SLOTS]; }
    const Weight& weight(int slot) const { return *weights_[slot]; }
    const Instruction& instruction(int) const { return instruction_; }
    RowRange rows(int slot) const {
        const int64_t first = slot ? ends_[slot - 1] : 0;
        return {first, ends_[slot] - first};
    }

private:
    const Instruction& instruction_;
    const Weight* const* weights_;
    const int64_t* ends_;
};

inline void grouped_linear(const Instruction& i, const Step&, const TeamMember& me) { many_linears(SlotLinears(i), i, me); }

// Of each head's IN_STEP columns the first, times the head's own weight, to the first of its OUT_STEP columns.
class HeadLinears {
public:
    HeadLinears(const Instruction& instruction, int64_t rows)
        : instruction_(instruction), rows_(rows), weights_(static_cast<const Weight* const*>(instruction.p[WEIGHTS])) {}

    int count() const { return instruction_.n[Q_HEADS]; }
    const Weight& weight(int head) const { return *weights_[head]; }
    RowRange rows(int) const { return {0, rows_}; }
    Instruction instruction(int head) const {
        Instruction one = instruction_;
        one.in[0].base = static_cast<char*>(one.in[0].base) + head * int64_t(one.n[IN_STEP]) * item_bytes(one.in[0].dtype);
        one.out.base = static_cast<char*>(one.out.base) + head * int64_t(one.n[OUT_STEP]) * item_bytes(one.out.dtype);
        return one;
    }

private:
    const Instruction& instruction_;
    const int64_t rows_;
    const Weight* const* weights_;
};

inline void per_head(const Instruction& i, const Step& step, const TeamMember& me) {
    many_linears(HeadLinears(i, step.rows[i.rows]), i, me);
}

}  // namespace weft
