// Groups of the depth that vectors lay out of codes while tile registers multiply with the one before, of pairs one after the
// other: a pair that began with its first group would multiply nothing meanwhile.
#pragma once

#include <utility>

#include "kernels/common/amx_registers.h"
#include "kernels/quant/weight.h"

#if defined(__AMX_BF16__)

namespace weft {

constexpr int kRing = 2;  // groups that there is room for

// For pairs [pair, end) of `w`, each as its `Codes`: begin(), then for every group of the depth lay(codes, k, to), k its first
// depth, and multiply(k, group) once it is dequantized, then finish(pair). `ring`: space for kRing dequantized groups.
template <class Codes, class Lay, class Begin, class Multiply, class Finish>
WEFT_INLINE void with_groups_laid_ahead(const Weight& w, int pair, int end, bf16* ring, Lay lay, Begin begin, Multiply multiply,
                                        Finish finish) {
    const int last = (ceil_div(w.depth, kGroup) - 1) * kGroup;
    bf16 *laid = ring, *next = ring + kGroup * kPair;
    auto lay_next = [&](const Codes& codes, int k) WEFT_LAMBDA_INLINE {
        settle_memory();
        lay(codes, k, next);
        settle_memory();
        std::swap(laid, next);
    };
    lay_next(Codes(w, pair), 0);
    for (; pair < end; ++pair) {
        const Codes codes(w, pair);
        begin();
        for (int k = 0; k < last; k += kGroup) {
            const bf16* const group = laid;
            lay_next(codes, k + kGroup);
            multiply(k, group);
        }
        const bf16* const group = laid;
        if (pair + 1 < end) lay_next(Codes(w, pair + 1), 0);
        multiply(last, group);
        finish(pair);
    }
}

}  // namespace weft

#endif
