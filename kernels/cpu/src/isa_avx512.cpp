// AVX-512 without bfloat16 products. bf16 weights and activations are widened to float32; they halve memory traffic.
#include "isa.hpp"

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")

namespace sorl {
namespace avx512 {

#include "avx512.hpp"
#include "widened_bf16.hpp"
#include "product.hpp"
#include "tile.hpp"
#include "stack.hpp"
#include "update.hpp"

}  // namespace avx512

std::unique_ptr<Engine> make_avx512(const Policy& policy, Precision precision, int threads) {
    return avx512::make(policy, precision, threads);
}

Updates make_updates_avx512() { return avx512::make_updates(); }

std::unique_ptr<Stack> make_stack_avx512(const StackShape& shape, Precision precision, Pool& pool) {
    return avx512::make_stack(shape, precision, pool);
}

}  // namespace sorl
#pragma GCC pop_options
#endif
