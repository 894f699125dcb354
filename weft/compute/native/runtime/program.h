// A program: instructions replayed one after the other by all threads of a pool, a barrier after each. What other ranks
// take part in is done by thread 0 while the others wait.
#pragma once

#include <limits.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "runtime/exchange.h"
#include "runtime/kernel_table.h"
#include "runtime/pool.h"

namespace weft {

inline bool is_exchange(int op) { return op >= ALL_REDUCE; }

class Program {
public:
    Program(Pool* pool, const Instruction* code, int count, const CommCalls* comm)
        : pool_(pool), code_(code, code + count), spent_ns_(count) {
        if (comm) comm_ = *comm;
        for (const Instruction& i : code_) {
            kernels_.push_back(is_exchange(i.op) ? nullptr : kernel_of(i.op));
            registers_ = std::max(registers_, i.rows + 1);
        }
    }

    // 0, or what `comm` gave for the exchange that failed; the step is then lost. `but_last`: without the last instruction.
    int run(const Step& step, bool but_last = false) {
        step_ = &step, end_ = code_.size() - but_last;
        failed_.store(0, std::memory_order_relaxed);
        failed_at_.store(kNowhere, std::memory_order_relaxed);
        pool_->run([](void* self, const TeamMember& me) { static_cast<Program*>(self)->work(me); }, this,
                   is_long() ? Pool::MayYield::kIfAway : Pool::MayYield::kLast);
        return failed_.load(std::memory_order_relaxed);
    }

    // The last instruction, an exchange that `run` left out. As `run`.
    int run_last(const Step& step) {
        step_ = &step;
        exchange(code_.size() - 1);
        return failed_.load(std::memory_order_relaxed);
    }

    // Rows of every member of a group, in order, `bytes` of each; 0, or what `comm` gave.
    int all_gather(uint32_t group, int position, const void* own, char* const* outs, const uint64_t* bytes, int members,
                   int dtype) {
        const int64_t began = monotonic_ns();
        const int code = comm_.all_gather(comm_.handle, group, static_cast<const char*>(own), outs, bytes, dtype);
        exchange_ns_ += monotonic_ns() - began;
        for (int m = 0; m < members; ++m) received_ += m == position ? 0 : bytes[m];
        return code;
    }

    // A message between pipeline stages, of `count` numbers; what has none is not sent. 0, or what `comm` gave.
    int message(Op op, uint32_t group, void* numbers, int64_t count, Dtype dtype) {
        const int64_t began = monotonic_ns();
        const uint64_t bytes = uint64_t(count) * uint64_t(item_bytes(dtype));
        char* const x = static_cast<char*>(numbers);
        int code = 0;
        if (bytes && op == SEND) code = comm_.send(comm_.handle, group, x, bytes, comm_dtype(dtype));
        if (bytes && op == RECV) code = comm_.recv(comm_.handle, group, x, bytes, comm_dtype(dtype));
        const int64_t took = monotonic_ns() - began;
        exchange_ns_ += took, stage_wait_ns_ += took;
        received_ += op == RECV ? bytes : 0;
        return code;
    }

    bool complete() const {
        for (size_t i = 0; i < code_.size(); ++i)
            if (!kernels_[i] && !is_exchange(code_[i].op)) return false;
        return true;
    }
    void profile(bool on) {
        profiling_ = on;
        spent_ns_.assign(code_.size(), 0);
    }
    const int64_t* spent_ns() const { return spent_ns_.data(); }
    Pool* pool() const { return pool_; }
    const Instruction& at(int number) const { return code_[number]; }
    int failed_at() const { return failed_at_.load(std::memory_order_relaxed); }
    int64_t exchange_ns() const { return exchange_ns_; }
    uint64_t received() const { return received_; }
    int64_t stage_wait_ns() const { return stage_wait_ns_; }

private:
    static constexpr int64_t kLongRows = 128;
    static constexpr int kNowhere = INT_MAX;

    // Whether instructions run long, about a millisecond for a small model with so many rows: a thread that joins late then
    // loses more time than its core could give to others.
    bool is_long() const { return *std::max_element(step_->rows, step_->rows + registers_) >= kLongRows; }

    void work(TeamMember me) {
        const int thread = me.thread;
        const size_t first = pool_->first_of(thread);
        if (failed_at_.load(std::memory_order_relaxed) < int(first)) return;
        int64_t began = profiling_ && !thread ? monotonic_ns() : 0;
        for (size_t i = first; i < end_; ++i) {
            if (kernels_[i]) compute(i, me);
            else if (!thread) exchange(i);
            if (!thread) pool_->join_late(i + 1);
            if (pool_->barrier(thread)) me = pool_->member(thread);
            // a slow thread may hear of a later exchange here: it must still come to the barrier of that one
            if (failed_at_.load(std::memory_order_relaxed) <= int(i)) return;
            if (profiling_ && !thread) {
                const int64_t now = monotonic_ns();
                spent_ns_[i] += now - began;
                began = now;
            }
        }
    }

    void compute(size_t i, const TeamMember& me) { kernels_[i](code_[i], *step_, me); }

    void exchange(size_t i) {
        const int64_t began = monotonic_ns();
        const Instruction& it = code_[i];
        const bool message = it.op == SEND || it.op == RECV;
        const Exchanged done = message           ? run_message(it, *step_, comm_)
                               : it.op == ROUTED ? run_routed(it, comm_)
                                                 : run_exchange(it, *step_, comm_);
        const int64_t took = monotonic_ns() - began;
        exchange_ns_ += took, stage_wait_ns_ += message ? took : 0;
        received_ += done.received;
        if (done.code) fail(i, done.code);
    }

    void fail(size_t i, int code) {
        failed_.store(code, std::memory_order_relaxed);
        failed_at_.store(int(i), std::memory_order_relaxed);
    }

    Pool* const pool_;
    std::vector<Instruction> code_;
    std::vector<Kernel> kernels_;
    CommCalls comm_{};
    const Step* step_ = nullptr;
    int registers_ = 1;  // of a step's rows
    size_t end_ = 0;     // of the instructions that are run
    int number_ = 0;     // of the one that is run alone
    std::atomic<int> failed_{0};
    std::atomic<int> failed_at_{kNowhere};  // the instruction in which that was found
    bool profiling_ = false;
    std::vector<int64_t> spent_ns_;  // of each instruction, as thread 0 saw it, its barrier included
    int64_t exchange_ns_ = 0;
    int64_t stage_wait_ns_ = 0;  // of these, for other pipeline stages
    uint64_t received_ = 0;
};

}  // namespace weft

// For ctypes. Null where an instruction is none that this build has a kernel for. The pool and everything that the
// instructions point to must outlive the program.
WEFT_C weft::Program* weft_program_new(weft::Pool* pool, const weft::Instruction* code, int count,
                                       const weft::CommCalls* comm) {
    auto* program = new weft::Program(pool, code, count, comm);
    if (program->complete()) return program;
    delete program;
    return nullptr;
}
WEFT_C void weft_program_free(weft::Program* program) { delete program; }
WEFT_C int weft_program_run(weft::Program* program, const weft::Step* step) { return program->run(*step); }
WEFT_C void weft_program_profile(weft::Program* program, int on) { program->profile(on != 0); }
WEFT_C const int64_t* weft_program_spent_ns(const weft::Program* program) { return program->spent_ns(); }
WEFT_C int weft_program_failed_at(const weft::Program* program) { return program->failed_at(); }
WEFT_C int64_t weft_program_exchange_ns(const weft::Program* program) { return program->exchange_ns(); }
WEFT_C int64_t weft_program_stage_wait_ns(const weft::Program* program) { return program->stage_wait_ns(); }
WEFT_C uint64_t weft_program_received(const weft::Program* program) { return program->received(); }
// Runs one instruction alone; -1 where it has no kernel.
WEFT_C int weft_run_one(weft::Pool* pool, const weft::Instruction* instruction, const weft::Step* step) {
    struct Job {
        weft::Kernel kernel;
        const weft::Instruction* instruction;
        const weft::Step* step;
    } job{weft::kernel_of(instruction->op), instruction, step};
    if (!job.kernel) return -1;
    pool->run(
        [](void* given, const weft::TeamMember& me) {
            const Job& it = *static_cast<Job*>(given);
            it.kernel(*it.instruction, *it.step, me);
        },
        &job);
    return 0;
}
