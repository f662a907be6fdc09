// Any target of GCC or Clang: vectors of four floats by the compiler's vector extension.
#include "isa.hpp"

namespace sorl {
namespace portable {

typedef float Vector __attribute__((vector_size(16)));
typedef int Integers __attribute__((vector_size(16)));
constexpr int width = 4;

static inline Vector splat(float value) { return Vector{value, value, value, value}; }
static inline Vector load(const float* in) {
    Vector v;
    std::memcpy(&v, in, sizeof v);
    return v;
}
static inline void store(float* out, Vector v) { std::memcpy(out, &v, sizeof v); }
static inline Vector fma(Vector a, Vector b, Vector c) { return a * b + c; }
static inline Vector reciprocal(Vector v) { return splat(1.0f) / v; }

#include "transpose.hpp"
#include "vector.hpp"
#include "widened_bf16.hpp"
#include "product.hpp"
#include "tile.hpp"
#include "stack.hpp"
#include "update.hpp"

}  // namespace portable

std::unique_ptr<Engine> make_portable(const Policy& policy, Precision precision, int threads) {
    return portable::make(policy, precision, threads);
}

Updates make_updates_portable() { return portable::make_updates(); }

std::unique_ptr<Stack> make_stack_portable(const StackShape& shape, Precision precision, Pool& pool) {
    return portable::make_stack(shape, precision, pool);
}

}  // namespace sorl
