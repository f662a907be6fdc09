// AVX-512 with bfloat16 dot products: Zen 4, Sapphire Rapids and later.
#include "isa.hpp"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")

namespace sorl {
namespace avx512_bf16 {

#include "avx512.hpp"

typedef __m512i Pairs;
static inline Pairs splat_pair(int32_t pair) { return _mm512_set1_epi32(pair); }
static inline Pairs load_pairs(const uint16_t* in) { return _mm512_loadu_si512(in); }
static inline Vector dot_pairs(Vector acc, Pairs a, Pairs b) { return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b); }
static inline void store_bf16(uint16_t* out, Vector v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), (__m256i)_mm512_cvtneps_pbh(v));
}
// Two vectors rounded to bfloat16: those of `low`, then those of `high`.
static inline Integers round_pairs(Vector low, Vector high) { return (Integers)_mm512_cvtne2ps_pbh(high, low); }

#include "product.hpp"
#include "tile.hpp"
#include "stack.hpp"
#include "update.hpp"

}  // namespace avx512_bf16

std::unique_ptr<Engine> make_avx512_bf16(const Policy& policy, Precision precision, int threads) {
    return avx512_bf16::make(policy, precision, threads);
}

Updates make_updates_avx512_bf16() { return avx512_bf16::make_updates(); }

std::unique_ptr<Stack> make_stack_avx512_bf16(const StackShape& shape, Precision precision, Pool& pool) {
    return avx512_bf16::make_stack(shape, precision, pool);
}

}  // namespace sorl
#pragma GCC pop_options
#endif
