// The step library: the kernels of step/*.h as one translation unit, built once for each instruction set.
#include "step/attention.h"
#include "step/instruction.h"
#include "step/linear.h"
#include "step/pack_api.h"
#include "step/pointwise.h"
#include "step/pool.h"
#include "step/rope.h"

namespace weft {

inline Kernel kernel_of(int32_t op) {
  switch (op) {
    case EMBED: return embed;
    case NORM: return norm;
    case LINEAR: return linear;
    case QKV: return qkv;
    case ATTENTION: return attention;
    case SILU_MUL: return silu_mul;
    case ADD: return add;
    case ADD_BIAS: return add_bias;
    case SELECT: return select_rows;
    default: return nullptr;
  }
}

struct OneInstruction {
  const Instruction *instruction;
  const Step *step;
};

}  // namespace weft

// Runs one instruction on all threads of `pool`; -1 where there is no kernel for it.
extern "C" int weft_run_one(weft::Pool *pool, const weft::Instruction *instruction, const weft::Step *step) {
  using weft::OneInstruction;
  if (!weft::kernel_of(instruction->op)) return -1;
  OneInstruction job{instruction, step};
  pool->run([](void *context, int thread, int threads) {
    auto &one = *static_cast<OneInstruction *>(context);
    weft::kernel_of(one.instruction->op)(*one.instruction, *one.step, thread, threads);
  }, &job);
  return 0;
}
