// The step library: the kernels of base/step/*.h as one translation unit, built once for each instruction set.
#include "runtime/futex_wait.h"
#include "kernels/quant/gguf_blocks.h"
#include "runtime/decode_loop.h"
#include "runtime/kernel_table.h"
#include "kernels/quant/pack_api.h"
#include "runtime/program.h"
#include "kernels/sampling/sampling.h"
