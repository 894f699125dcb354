// The step library: the kernels of step/*.h as one translation unit, built once for each instruction set.
#include "step/awaited.h"
#include "step/blocks.h"
#include "step/following.h"
#include "step/kernels.h"
#include "step/pack_api.h"
#include "step/program.h"
#include "step/sampling.h"
