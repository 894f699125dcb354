// What thieves read of a program: copies of its instructions and of the current step's numbers, in memory that every rank
// maps at the same address.
#pragma once

#include <string.h>

#include <algorithm>
#include <vector>

#include "runtime/instruction.h"

namespace weft {

class PublishedProgram {
public:
    // For so many instructions, and steps of so many rows of a rank's attention block, runs, and blocks of a run.
    static int64_t bytes(int64_t instructions, int64_t rows, int64_t runs, int64_t table_width) {
        return instructions * int64_t(sizeof(Instruction)) + int64_t(sizeof(Step)) +
               int64_t(sizeof(int32_t)) * (4 * rows + 2 * runs + runs * table_width) + kParts * kLine;
    }

    // `memory`: so many bytes, or null where nothing is shown.
    PublishedProgram(void* memory, int64_t bytes) : at_(static_cast<char*>(memory)), end_(at_ + bytes) {}

    void take(const std::vector<Instruction>& code) {
        if (!at_) return;
        code_ = copied(code.data(), code.size());
        for (const Instruction& i : code)
            if (i.op == ATTENTION) block_size_ = i.n[BLOCK_SIZE];
        step_ = reinterpret_cast<Step*>(at_);
        at_ = aligned(at_ + sizeof(Step));
    }

    // False where there is no room for such a step, or attention takes other rows than the block's: it is not to be shown.
    bool take(const Step& step) {
        if (step.group_positions && step.group_positions != step.positions) return false;
        const int64_t runs = step.runs, rows = runs ? step.row_ends[runs - 1] : 0,
                      sampled = runs && step.sampled_row_ends ? step.sampled_row_ends[runs - 1] : 0;
        if (!step_ || end_ - at_ < int64_t(sizeof(int32_t)) * (3 * rows + sampled + 2 * runs + runs * step.table_width) +
                                       (kParts - 2) * kLine)
            return false;
        char* const begin = at_;
        *step_ = step;
        step_->positions = copied(step.positions, rows), step_->slots = copied(step.slots, rows);
        step_->run_of_row = copied(step.run_of_row, rows), step_->row_ends = copied(step.row_ends, runs);
        step_->block_tables = tables_of(step), step_->group_positions = step_->positions;
        step_->sampled_positions = copied(step.sampled_positions, sampled);
        step_->sampled_row_ends = copied(step.sampled_row_ends, runs);
        at_ = begin;
        return true;
    }

    const Instruction& code(size_t number) const { return code_[number]; }
    const Step& step() const { return *step_; }

private:
    static constexpr int kParts = 9, kLine = 64;

    static char* aligned(char* at) { return at + (-reinterpret_cast<uintptr_t>(at) & (kLine - 1)); }

    template <class T> T* copied(const T* from, int64_t count) {
        T* const to = reinterpret_cast<T*>(at_);
        if (from && count) memcpy(to, from, count * sizeof(T));
        at_ = aligned(at_ + count * sizeof(T));
        return to;
    }

    // Of each run those blocks that it has come to.
    const int32_t* tables_of(const Step& step) {
        int32_t* const to = copied<int32_t>(nullptr, int64_t(step.runs) * step.table_width);
        for (int run = 0; run < step.runs; ++run) {
            const int64_t last = step.row_ends[run] - 1, at = int64_t(run) * step.table_width;
            if (last < (run ? step.row_ends[run - 1] : 0)) continue;
            memcpy(to + at, step.block_tables + at,
                   std::min(step.positions[last] / block_size_ + 1, step.table_width) * sizeof(int32_t));
        }
        return to;
    }

    char *at_, *end_;
    int block_size_ = 1;
    const Instruction* code_ = nullptr;
    Step* step_ = nullptr;
};

}  // namespace weft
