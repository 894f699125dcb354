// The step library: the kernels of step/*.h as one translation unit, built once for each instruction set.
#include "step/instruction.h"
#include "step/pool.h"
