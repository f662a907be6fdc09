// Python bindings of the engine. They check arrays, and release the GIL while the engine computes.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "engine.hpp"
#include "philox.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

// An engine, and the sizes that its arrays must have.
class Sampler {
   public:
    Sampler(const std::string& isa, const std::string& precision, int threads, int obs_dim, int action_dim, int members,
            bool least, bool conditioned, std::optional<float> layer_norm_eps, const std::vector<In<float>>& actor_weight,
            const std::vector<In<float>>& actor_bias, const std::vector<In<float>>& critic_weight,
            const std::vector<In<float>>& critic_bias, const std::vector<In<float>>& norm_weight,
            const std::vector<In<float>>& norm_bias, const In<float>& step_t, const In<float>& step_log2,
            const In<float>& critic_steps)
        : obs_dim_(obs_dim), action_dim_(action_dim), max_steps_(int(critic_steps.size()) - 1) {
        if (threads < 1) throw std::invalid_argument("threads: expected at least 1");
        sorl::Policy policy;
        policy.obs_dim = obs_dim;
        policy.action_dim = action_dim;
        policy.members = members;
        policy.least = least;
        policy.conditioned = conditioned;
        policy.layer_norm = layer_norm_eps.has_value();
        policy.layer_norm_eps = layer_norm_eps.value_or(0.0f);
        policy.max_steps = max_steps_;
        policy.actor_widths =
            layers(actor_weight, actor_bias, 1, obs_dim + action_dim + 2, action_dim, policy.actor_weight, policy.actor_bias);
        policy.critic_widths = layers(critic_weight, critic_bias, size_t(members), obs_dim + action_dim + conditioned, 1,
                                      policy.critic_weight, policy.critic_bias);
        if (policy.layer_norm) {
            if (norm_weight.size() != policy.critic_widths.size() || norm_bias.size() != norm_weight.size())
                throw std::invalid_argument("norm_weight, norm_bias: expected one per hidden layer of the critic");
            for (size_t layer = 0; layer < norm_weight.size(); ++layer) {
                const size_t size = size_t(members) * policy.critic_widths[layer];
                require(norm_weight[layer], size, "norm_weight");
                require(norm_bias[layer], size, "norm_bias");
                policy.norm_weight.push_back(norm_weight[layer].data());
                policy.norm_bias.push_back(norm_bias[layer].data());
            }
        }
        const size_t table = size_t(max_steps_ + 1) * max_steps_;
        require(step_t, table, "step_t");
        require(step_log2, table, "step_log2");
        policy.step_t.assign(step_t.data(), step_t.data() + table);
        policy.step_log2.assign(step_log2.data(), step_log2.data() + table);
        policy.critic_steps.assign(critic_steps.data(), critic_steps.data() + critic_steps.size());
        for (const auto* arrays : {&actor_weight, &actor_bias, &critic_weight, &critic_bias, &norm_weight, &norm_bias})
            weights_.insert(weights_.end(), arrays->begin(), arrays->end());
        engine_ = sorl::make_engine(policy, isa, sorl::precision_of(precision), threads);
    }

    // Helpers have idle priority, so on busy cores they may take long to end. Whoever drops the last reference, often an
    // event loop, must not wait for that with the GIL.
    ~Sampler() {
        if (!engine_) return;
        try {
            std::thread([engine = std::move(engine_)]() mutable { engine.reset(); }).detach();
        } catch (const std::system_error&) {  // no more threads: the engine has ended here
        }
    }

    Sampler(const Sampler&) = delete;
    Sampler& operator=(const Sampler&) = delete;

    bool pack_layer() {
        const nb::gil_scoped_release unlocked;
        return engine_->pack_layer();
    }

    void sample_and_score(const In<float>& observation, const In<int32_t>& num_candidates, const In<int32_t>& num_steps,
                          const In<uint64_t>& seed, const In<float>& temperature, const In<int32_t>& first_candidate,
                          const Out<float>& action, const Out<float>& q, const Out<float>& q_std, const Out<int32_t>& index,
                          const Out<float>& q_first, const Out<float>& q_sum, const Out<float>& q_sumsq,
                          const Out<bool>& nonfinite, const std::optional<Out<float>>& candidates,
                          const std::optional<Out<float>>& candidate_q,
                          const std::optional<Out<float>>& candidate_q_std) {
        const size_t requests = num_candidates.size();
        require(observation, requests * obs_dim_, "observation");
        require(num_steps, requests, "num_steps");
        require(seed, requests, "seed");
        require(temperature, requests, "temperature");
        require(first_candidate, requests, "first_candidate");
        require(action, requests * action_dim_, "action");
        require(q, requests, "q");
        require(q_std, requests, "q_std");
        require(index, requests, "index");
        require(q_first, requests, "q_first");
        require(q_sum, requests, "q_sum");
        require(q_sumsq, requests, "q_sumsq");
        require(nonfinite, requests, "nonfinite");
        size_t rows = 0;
        for (size_t request = 0; request < requests; ++request) {
            const int candidates_here = num_candidates.data()[request], steps = num_steps.data()[request];
            if (candidates_here < 1) throw std::invalid_argument("num_candidates: expected at least 1");
            if (steps < 1 || steps > max_steps_)
                throw std::invalid_argument("num_steps: expected 1 to " + std::to_string(max_steps_));
            rows += size_t(candidates_here);
        }
        sorl::Result result{action.data(), q.data(),     q_std.data(),     q_first.data(), q_sum.data(), q_sumsq.data(),
                            index.data(),  nonfinite.data(), nullptr,        nullptr,        nullptr};
        if (candidates.has_value() != candidate_q.has_value() || candidates.has_value() != candidate_q_std.has_value())
            throw std::invalid_argument("candidates, candidate_q and candidate_q_std: expected all or none");
        if (candidates) {
            require(*candidates, rows * action_dim_, "candidates");
            require(*candidate_q, rows, "candidate_q");
            require(*candidate_q_std, rows, "candidate_q_std");
            result.candidates = candidates->data();
            result.candidate_q = candidate_q->data();
            result.candidate_q_std = candidate_q_std->data();
        }
        const sorl::Batch batch{int(requests),      observation.data(), num_candidates.data(), num_steps.data(),
                                first_candidate.data(), seed.data(),        temperature.data()};
        const nb::gil_scoped_release unlocked;
        engine_->sample_and_score(batch, result);
    }

   private:
    // Checks that the sizes of a network's weights match. Returns its hidden widths.
    static std::vector<int> layers(const std::vector<In<float>>& weights, const std::vector<In<float>>& biases,
                                   size_t members, int inputs, int outputs, std::vector<const float*>& weight,
                                   std::vector<const float*>& bias) {
        std::vector<int> widths;
        if (weights.size() < 2 || weights.size() != biases.size())
            throw std::invalid_argument("weights, biases: expected one per layer, and at least two layers");
        for (size_t layer = 0; layer < weights.size(); ++layer) {
            const size_t width = biases[layer].size() / members;
            require(weights[layer], members * width * size_t(inputs), "weights");
            weight.push_back(weights[layer].data());
            bias.push_back(biases[layer].data());
            inputs = int(width);
            widths.push_back(inputs);
        }
        if (widths.back() != outputs) throw std::invalid_argument("weights: the last layer has a wrong width");
        widths.pop_back();
        return widths;
    }

    size_t obs_dim_, action_dim_;
    int max_steps_;
    std::vector<In<float>> weights_;  // the engine reads them until it has packed them all
    std::unique_ptr<sorl::Engine> engine_;
};

}  // namespace

void bind_stack(nb::module_& m);

NB_MODULE(_engine, m) {
    m.doc() = "Native networks on CPUs: sampling (__init__.py), training (learning.py, updates.py).";
    bind_stack(m);
    m.def("supported_isas", &sorl::supported_isas, "Instruction sets this machine can run, best first.");
    m.def(
        "philox4x32",
        [](uint64_t seed, uint32_t candidate, uint32_t block) {
            const sorl::Words words = sorl::philox4x32(seed, candidate, block);
            return std::vector<uint32_t>(words.w, words.w + 4);
        },
        "seed"_a, "candidate"_a, "block"_a, "The four words of one counter, for tests.");
    m.def(
        "standard_normals",
        [](uint64_t seed, uint32_t candidate, const Out<float>& out) {
            sorl::standard_normals(seed, candidate, int(out.size()), out.data());
        },
        "seed"_a, "candidate"_a, "out"_a, "Fill `out` with a candidate's normals, for tests.");
    nb::class_<Sampler>(m, "Sampler")
        .def(nb::init<const std::string&, const std::string&, int, int, int, int, bool, bool, std::optional<float>,
                      const std::vector<In<float>>&, const std::vector<In<float>>&, const std::vector<In<float>>&,
                      const std::vector<In<float>>&, const std::vector<In<float>>&, const std::vector<In<float>>&,
                      const In<float>&, const In<float>&, const In<float>&>(),
             nb::kw_only(), "isa"_a, "precision"_a, "threads"_a, "obs_dim"_a, "action_dim"_a, "members"_a, "least"_a,
             "conditioned"_a, "layer_norm_eps"_a.none(), "actor_weight"_a, "actor_bias"_a, "critic_weight"_a,
             "critic_bias"_a, "norm_weight"_a, "norm_bias"_a, "step_t"_a, "step_log2"_a, "critic_steps"_a)
        .def("pack_layer", &Sampler::pack_layer,
             "Pack the next layer's weights; returns whether there are more. `sample_and_score` packs what is left.")
        .def("sample_and_score", &Sampler::sample_and_score, nb::kw_only(), "observation"_a, "num_candidates"_a,
             "num_steps"_a, "seed"_a, "temperature"_a, "first_candidate"_a, "action"_a, "q"_a, "q_std"_a, "index"_a,
             "q_first"_a, "q_sum"_a, "q_sumsq"_a, "nonfinite"_a, "candidates"_a.none(), "candidate_q"_a.none(),
             "candidate_q_std"_a.none());
}
