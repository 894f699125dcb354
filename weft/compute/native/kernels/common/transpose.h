// Squares of words, turned around on their way through memory. AVX-512 only.
#pragma once

#include "kernels/common/vec.h"

#if defined(__AVX512F__)

namespace weft {

// Sixteen rows of sixteen 32-bit words turned around: row(r) is where one is read, column(j, words) takes what becomes of
// the words j. Only `count` rows, rounded up to four, are asked for; the others are zeros. Quarters of rows are put beside
// each other as they are read, which leaves half of the shuffles that squares in registers need.
template <class Row, class Column> WEFT_INLINE void turn_square(int count, Row row, Column column) {
#pragma GCC unroll 4
    for (int quarter = 0; quarter < 4; ++quarter) {
        __m512i beside[4];  // lane by lane rows i, 4 + i, 8 + i, 12 + i
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            auto part = [&](int r)
                            WEFT_LAMBDA_INLINE { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row(r)) + quarter); };
            beside[i] = _mm512_zextsi128_si512(part(i));
            if (count > 4) beside[i] = _mm512_inserti32x4(beside[i], part(4 + i), 1);
            if (count > 8) beside[i] = _mm512_inserti32x4(beside[i], part(8 + i), 2);
            if (count > 12) beside[i] = _mm512_inserti32x4(beside[i], part(12 + i), 3);
        }
        const __m512i low[2] = {_mm512_unpacklo_epi32(beside[0], beside[1]), _mm512_unpacklo_epi32(beside[2], beside[3])};
        const __m512i high[2] = {_mm512_unpackhi_epi32(beside[0], beside[1]), _mm512_unpackhi_epi32(beside[2], beside[3])};
        column(4 * quarter, _mm512_unpacklo_epi64(low[0], low[1]));
        column(4 * quarter + 1, _mm512_unpackhi_epi64(low[0], low[1]));
        column(4 * quarter + 2, _mm512_unpacklo_epi64(high[0], high[1]));
        column(4 * quarter + 3, _mm512_unpackhi_epi64(high[0], high[1]));
    }
}

}  // namespace weft

#endif
