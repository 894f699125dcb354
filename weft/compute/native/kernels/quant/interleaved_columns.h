// The order in which numbers of a pair's columns come out of words that lie in twos, a column's beside each other: with AVX2
// of each eight columns 0 1 4 5 2 3 6 7, an instruction or two before their own order, which elsewhere is as near. Sums
// may stay so until they are put down.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels/common/fp16.h"

namespace weft {

#if defined(WEFT_ONLY_AVX2)

// The first word, or the second, of each of eight columns, whose words are two vectors.
WEFT_INLINE __m256i mixed_first(__m256i a, __m256i b) {
    return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88));
}
WEFT_INLINE __m256i mixed_second(__m256i a, __m256i b) {
    return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0xdd));
}

// Into that order, or out of it.
WEFT_INLINE Vec<float> mixed(Vec<float> x) { return (Vec<float>)_mm256_permute4x64_pd((__m256d)x, 0xd8); }
WEFT_INLINE __m256i mixed(__m256i x) { return _mm256_permute4x64_epi64(x, 0xd8); }
WEFT_INLINE Halves mixed(Halves x) { return (Halves)_mm_shuffle_epi32((__m128i)x, 0xd8); }

#else

template <class V> WEFT_INLINE V mixed(V x) { return x; }

#endif

}  // namespace weft
