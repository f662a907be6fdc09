// Dense networks for training: forward passes that can be recorded on a tape, and backward passes over the tape.
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

// Pointers to one member's parameters or gradients, in the caller's memory. Weights are (out, in) with rows of `stride`
// numbers.
template <class T>
struct Numbers {
    std::vector<T*> weight, bias, scale, shift;  // bias[0] is null if the caller adds it, in `share`
    std::vector<int> stride;
};

// The record of a forward pass that its backward pass needs.
class Tape {
   public:
    virtual ~Tape() = default;
};

class Stack {
   public:
    virtual ~Stack() = default;
    // Pack new weights, one set per member; with `backward` also in the second layout that backward passes need.
    virtual void pack(const std::vector<Numbers<const float>>& members, bool backward) = 0;
    virtual std::unique_ptr<Tape> make_tape(int rows) const = 0;
    // Compute output (members, rows, outputs) of input (rows, inputs). `share`, (rows, widths[0]) or null, is added
    // before the first GELU, in place of the first bias. `tape` is null if no backward pass will follow.
    virtual void forward(int rows, const float* input, const float* share, float* output, Tape* tape) = 0;
    // Compute from d_output the gradients d_input, (rows, count), of the input columns `first` to `first + count` - 1,
    // and d_share; either may be null. Parameter gradients are added to `members`, unless that is empty.
    virtual void backward(int rows, const float* d_output, int first, int count, float* d_input, float* d_share,
                          const std::vector<Numbers<float>>& members, Tape& tape) = 0;
};

struct AdamStep {
    float scale;  // gradients are multiplied by it
    float learning_rate, beta1, beta2, epsilon;
    float correction1, root_correction2;  // 1 - beta1^t, sqrt(1 - beta2^t)
};

// Optimiser updates of a contiguous array, for one instruction set; see update.hpp.
struct Updates {
    void (*adam)(float* parameter, float* gradient, float* mean, float* square, size_t count, const AdamStep& step);
    void (*move_average)(float* target, const float* online, size_t count, float tau);
    double (*sum_of_squares)(const float* numbers, size_t count);
};

Updates make_updates(const std::string& isa);

// The stack for an instruction set. Throws std::invalid_argument if this machine lacks it. The pool must outlive the
// stack.
std::unique_ptr<Stack> make_stack(const StackShape& shape, const std::string& isa, Precision precision, Pool& pool);

}  // namespace sorl
