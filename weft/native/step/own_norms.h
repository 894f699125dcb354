// Norms of few rows that each thread computes for itself, because what it multiplies next reads them: that takes less time
// than to meet. Knows no kernel.
#pragma once

#include <vector>

#include "instruction.h"
#include "scratch.h"
#include "stealing.h"

namespace weft {

// Which instructions of a program are such norms.
class OwnNorms {
public:
    OwnNorms(const Instruction* code, int count) : suits_(count) {
        for (int i = 0; i + 1 < count; ++i) suits_[i] = suits(code[i], code[i + 1]);
    }

    // Whether each thread computes instruction `i` of a step that ends before `end`, and goes on to the next one.
    bool at(size_t i, const Instruction* code, const Step& step, size_t end) const {
        return i + 1 < end && suits_[i] && step.rows[code[i].rows] <= kFewRows;
    }

    // By each thread, with the norm's kernel: 0 into where others find it behind the next barrier, the others into memory of their own.
    template <class Kernel> static void run(Kernel kernel, Instruction norm, const Step& step, int thread) {
        if (thread) norm.out.base = rows_of(norm.out);
        kernel(norm, step, TeamMember(0, 1));
    }

    // What a thread other than 0 multiplies then.
    static Instruction product(Instruction of_all) {
        of_all.in[0].base = rows_of(of_all.in[0]);
        return of_all;
    }

private:
    static constexpr int64_t kFewRows = 2;
    enum Use : int { NORMED_SCRATCH = 130 };

    static int64_t bytes(const Operand& rows) { return kFewRows * rows.stride * item_bytes(rows.dtype); }
    static void* rows_of(const Operand& rows) { return scratch<NORMED_SCRATCH>().take<char>(bytes(rows)); }

    static bool apart(const Operand& a, const Operand& b) {
        const char *first = static_cast<const char*>(a.base), *second = static_cast<const char*>(b.base);
        return first + bytes(a) <= second || second + bytes(b) <= first;
    }

    // Not where it adds to its rows, which must be done once, nor where somebody may write to them while others still read.
    static bool suits(const Instruction& norm, const Instruction& product) {
        if (norm.op != NORM || product.op != LINEAR || norm.rows != product.rows || norm.in[1].base) return false;
        const Operand &from = norm.in[0], &to = norm.out, &read = product.in[0];
        if (read.base != to.base || read.stride != to.stride || read.dtype != to.dtype) return false;
        return apart(from, to) && apart(from, product.out) && apart(to, product.out);
    }

    std::vector<char> suits_;
};

}  // namespace weft
