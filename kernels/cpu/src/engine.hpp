// The engine's interface: policy, batch, result, and `Engine`, which each instruction set implements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace sorl {

// A policy's float32 weights, row-major (out, in); the critic's members one after another. The caller owns them, and
// keeps them until the engine has packed the last layer.
struct Policy {
    int obs_dim = 0, action_dim = 0, members = 0;
    bool least = false;        // the value is the members' minimum instead of their mean
    bool conditioned = false;  // the critic's last input is k
    bool layer_norm = false;
    float layer_norm_eps = 1e-6f;
    int max_steps = 0;  // M_disc
    std::vector<int> actor_widths, critic_widths;  // hidden
    std::vector<const float*> actor_weight, actor_bias;
    std::vector<const float*> critic_weight, critic_bias, norm_weight, norm_bias;
    // Times and log2 sizes of the Euler steps by [M][step], and k by [M]: see kernels/schedule.py.
    std::vector<float> step_t, step_log2, critic_steps;
};

// R requests, in contiguous arrays that the caller owns.
struct Batch {
    int requests = 0;
    const float* observation = nullptr;  // (R, obs_dim), normalised
    const int32_t *num_candidates = nullptr, *num_steps = nullptr, *first_candidate = nullptr;
    const uint64_t* seed = nullptr;
    const float* temperature = nullptr;
};

struct Result {
    float *action = nullptr, *q = nullptr, *q_std = nullptr, *q_first = nullptr, *q_sum = nullptr, *q_sumsq = nullptr;
    int32_t* index = nullptr;
    bool* nonfinite = nullptr;
    // (rows, action_dim), (rows), (rows); null if not requested
    float *candidates = nullptr, *candidate_q = nullptr, *candidate_q_std = nullptr;
};

class Engine {
   public:
    virtual ~Engine() = default;
    // Packs the weights of the next layer into the engine's own memory. Returns whether there are more.
    virtual bool pack_layer() = 0;
    // Packs what is left first.
    virtual void sample_and_score(const Batch& batch, const Result& result) = 0;
};

enum class Precision { fp32, bf16 };

// The precision called "fp32" or "bf16". Throws std::invalid_argument for other names.
Precision precision_of(const std::string& name);

// The instruction sets that this machine can run, fastest first, of "avx512_bf16", "avx512", "avx2", "portable".
std::vector<std::string> supported_isas();

// The engine for an instruction set. Throws std::invalid_argument if this machine lacks it.
std::unique_ptr<Engine> make_engine(const Policy& policy, const std::string& isa, Precision precision, int threads);

}  // namespace sorl
