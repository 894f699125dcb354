// What a test asks: which norms of a program each thread computes for itself.
#include "own_norms.h"

// Whether instruction `number` is one, in a step that ends before instruction `end`.
WEFT_C int probe_own_norm(const weft::Instruction* code, int count, int number, const weft::Step* step, int end) {
    return weft::OwnNorms(code, count).at(number, code, *step, end);
}
