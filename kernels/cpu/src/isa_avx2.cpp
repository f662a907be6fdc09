// AVX2 with FMA: most x86-64 machines since 2013.
#include "isa.hpp"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")

namespace sorl {
namespace avx2 {

typedef __m256 Vector;
typedef int Integers __attribute__((vector_size(32)));
constexpr int width = 8;

static inline Vector splat(float value) { return _mm256_set1_ps(value); }
static inline Vector load(const float* in) { return _mm256_loadu_ps(in); }
static inline void store(float* out, Vector v) { _mm256_storeu_ps(out, v); }
static inline Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
static inline Vector reciprocal(Vector v) { return splat(1.0f) / v; }

#include "transpose.hpp"
#include "vector.hpp"
#include "widened_bf16.hpp"
#include "product.hpp"
#include "tile.hpp"
#include "stack.hpp"
#include "update.hpp"

}  // namespace avx2

std::unique_ptr<Engine> make_avx2(const Policy& policy, Precision precision, int threads) {
    return avx2::make(policy, precision, threads);
}

Updates make_updates_avx2() { return avx2::make_updates(); }

std::unique_ptr<Stack> make_stack_avx2(const StackShape& shape, Precision precision, Pool& pool) {
    return avx2::make_stack(shape, precision, pool);
}

}  // namespace sorl
#pragma GCC pop_options
#endif
