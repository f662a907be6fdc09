// What the engine is asked and answers, and the one virtual function behind which instruction sets differ.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace sorl {

// A policy as Python hands it over: plain float32, row-major (out, in), the critic's members one after another.
struct Policy {
    int obs_dim = 0, action_dim = 0, members = 0;
    bool least = false;        // aggregate by the members' minimum, not their mean
    bool conditioned = false;  // the critic's input ends with k
    bool layer_norm = false;
    float layer_norm_eps = 1e-6f;
    int max_steps = 0;  // M_disc
    std::vector<int> actor_widths, critic_widths;  // hidden
    std::vector<const float*> actor_weight, actor_bias;
    std::vector<const float*> critic_weight, critic_bias, norm_weight, norm_bias;
    // Schedules by [M][step], as kernels/schedule.py defines them, and k by [M].
    std::vector<float> step_t, step_log2, critic_steps;
};

// R requests; arrays are the caller's and contiguous.
struct Batch {
    int requests = 0;
    const float* observation = nullptr;  // (R, obs_dim), as the networks see it
    const int32_t *num_candidates = nullptr, *num_steps = nullptr, *first_candidate = nullptr;
    const uint64_t* seed = nullptr;
    const float* temperature = nullptr;
};

struct Result {
    float *action = nullptr, *q = nullptr, *q_std = nullptr, *q_first = nullptr, *q_sum = nullptr, *q_sumsq = nullptr;
    int32_t* index = nullptr;
    bool* nonfinite = nullptr;
    float *candidates = nullptr, *candidate_q = nullptr;  // (rows, action_dim), (rows); null if not asked for
};

class Engine {
   public:
    virtual ~Engine() = default;
    virtual void sample_and_score(const Batch& batch, const Result& result) = 0;
};

enum class Precision { fp32, bf16 };

// Throws std::invalid_argument for other names than these two.
Precision precision_of(const std::string& name);

// The instruction sets this build knows, best first: "avx512_bf16", "avx512", "avx2", "portable".
std::vector<std::string> supported_isas();

// Throws std::invalid_argument for an instruction set that this machine lacks.
std::unique_ptr<Engine> make_engine(const Policy& policy, const std::string& isa, Precision precision, int threads);

}  // namespace sorl
