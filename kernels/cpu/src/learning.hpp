// Dense networks that learn: forward passes that are taken down, and backward passes over what was taken down.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "engine.hpp"
#include "team.hpp"

namespace sorl {

// `members` networks of one shape: hidden layers with GELU (and LayerNorm, if any), then a linear output.
struct StackShape {
    int members = 1, inputs = 0, outputs = 0;
    std::vector<int> widths;  // hidden
    bool layer_norm = false;
    float layer_norm_eps = 1e-6f;
};

// One member's numbers, where they lie: weights are (out, in) rows of `stride` numbers.
template <class T>
struct Numbers {
    std::vector<T*> weight, bias, scale, shift;  // bias[0] is null where the caller adds it (as a share of the input)
    std::vector<int> stride;
};

// What backward needs of a forward pass.
class Tape {
   public:
    virtual ~Tape() = default;
};

class Stack {
   public:
    virtual ~Stack() = default;
    // Take over new weights, one set a member; `backward` passes need them in a second layout.
    virtual void pack(const std::vector<Numbers<const float>>& members, bool backward) = 0;
    virtual std::unique_ptr<Tape> make_tape(int rows) const = 0;
    // output (members, rows, outputs) of input (rows, inputs). `share` (rows, widths[0]), or null: added before the
    // first GELU. `tape` null: backward won't follow.
    virtual void forward(int rows, const float* input, const float* share, float* output, Tape* tape) = 0;
    // From d_output to d_input (rows, count), the columns `first` to `first + count` of the input, and d_share; either
    // may be null. Gradients are added to `members`; an empty vector wants none.
    virtual void backward(int rows, const float* d_output, int first, int count, float* d_input, float* d_share,
                          const std::vector<Numbers<float>>& members, Tape& tape) = 0;
};

struct AdamStep {
    float scale;  // of gradients
    float learning_rate, beta1, beta2, epsilon;
    float correction1, root_correction2;  // 1 - beta1^t, sqrt(1 - beta2^t)
};

// What optimisers do to a run of numbers; see update.hpp.
struct Updates {
    void (*adam)(float* parameter, float* gradient, float* mean, float* square, size_t count, const AdamStep& step);
    void (*move_average)(float* target, const float* online, size_t count, float tau);
    double (*sum_of_squares)(const float* numbers, size_t count);
};

Updates make_updates(const std::string& isa);

// Throws std::invalid_argument for an instruction set that this machine lacks. The pool must outlive the stack.
std::unique_ptr<Stack> make_stack(const StackShape& shape, const std::string& isa, Precision precision, Pool& pool);

}  // namespace sorl
