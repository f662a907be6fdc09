// Python bindings of `Stack`, its tapes, and optimiser updates.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "arrays.hpp"
#include "learning.hpp"
#include "team.hpp"

using namespace nb::literals;

namespace {

// Unused tapes, by their number of rows. A new tape costs as much in page faults as the pass that fills it.
struct SpareTapes {
    std::mutex mutex;
    std::map<int, std::vector<std::unique_ptr<sorl::Tape>>> by_rows;
};

// A recorded forward pass. Its destructor returns the tape to `SpareTapes`.
class Taken {
   public:
    Taken(int rows, std::unique_ptr<sorl::Tape> tape, std::shared_ptr<SpareTapes> home)
        : rows(rows), tape(std::move(tape)), home_(std::move(home)) {}
    ~Taken() {
        const std::lock_guard<std::mutex> lock(home_->mutex);
        home_->by_rows[rows].push_back(std::move(tape));
    }

    const int rows;
    std::unique_ptr<sorl::Tape> tape;

   private:
    std::shared_ptr<SpareTapes> home_;
};

class LearningStack {
   public:
    LearningStack(std::shared_ptr<sorl::Pool> pool, const std::string& isa, const std::string& precision, int members,
                  int inputs, const std::vector<int>& widths, int outputs, std::optional<float> layer_norm_eps)
        : pool_(std::move(pool)), spare_(std::make_shared<SpareTapes>()) {
        if (widths.empty()) throw std::invalid_argument("widths: expected at least one hidden layer");
        shape_.members = members;
        shape_.inputs = inputs;
        shape_.outputs = outputs;
        shape_.widths = widths;
        shape_.layer_norm = layer_norm_eps.has_value();
        shape_.layer_norm_eps = layer_norm_eps.value_or(0.0f);
        stack_ = sorl::make_stack(shape_, isa, sorl::precision_of(precision), *pool_);
    }

    // Weights are (members, out, in), vectors (members, size). With `skip` > 0, the first layer's weights have that
    // many leading columns which the caller computes, and no bias.
    void pack(const std::vector<In<float>>& weight, const std::vector<std::optional<In<float>>>& bias,
              const std::vector<In<float>>& scale, const std::vector<In<float>>& shift, int skip, bool backward) {
        const auto members = numbers<const float>(weight, bias, scale, shift, skip);
        const nb::gil_scoped_release unlocked;
        stack_->pack(members, backward);
    }

    void forward(const In<float>& input, const std::optional<In<float>>& share, const Out<float>& output) {
        const int rows = check(input, share, output);
        const nb::gil_scoped_release unlocked;
        stack_->forward(rows, input.data(), share ? share->data() : nullptr, output.data(), nullptr);
    }

    std::unique_ptr<Taken> record(const In<float>& input, const std::optional<In<float>>& share, const Out<float>& output) {
        const int rows = check(input, share, output);
        auto taken = std::make_unique<Taken>(rows, take(rows), spare_);
        const nb::gil_scoped_release unlocked;
        stack_->forward(rows, input.data(), share ? share->data() : nullptr, output.data(), taken->tape.get());
        return taken;
    }

    void backward(Taken& taken, const In<float>& d_output, int first, const std::optional<Out<float>>& d_input,
                  const std::optional<Out<float>>& d_share, const std::vector<Out<float>>& weight,
                  const std::vector<std::optional<Out<float>>>& bias, const std::vector<Out<float>>& scale,
                  const std::vector<Out<float>>& shift, int skip) {
        const size_t rows = taken.rows;
        require(d_output, rows * shape_.members * shape_.outputs, "d_output");
        if (d_share) require(*d_share, rows * shape_.widths[0], "d_share");
        const int count = d_input ? int(d_input->size() / rows) : 0;
        if (first < 0 || first + count > shape_.inputs || (d_input && d_input->size() != rows * count))
            throw std::invalid_argument("d_input: expected whole columns of the input");
        const auto members = weight.empty() ? std::vector<sorl::Numbers<float>>()
                                            : numbers<float>(weight, bias, scale, shift, skip);
        const nb::gil_scoped_release unlocked;
        stack_->backward(int(rows), d_output.data(), first, count, d_input ? d_input->data() : nullptr,
                         d_share ? d_share->data() : nullptr, members, *taken.tape);
    }

   private:
    template <class T, class Arrays, class Biases>
    std::vector<sorl::Numbers<T>> numbers(const Arrays& weight, const Biases& bias, const Arrays& scale,
                                          const Arrays& shift, int skip) const {
        const size_t layers = shape_.widths.size(), norms = shape_.layer_norm ? layers : 0;
        if (weight.size() != layers + 1 || bias.size() != layers + 1 || scale.size() != norms || shift.size() != norms)
            throw std::invalid_argument("weights: expected one per layer");
        std::vector<sorl::Numbers<T>> members(shape_.members);
        for (size_t layer = 0; layer <= layers; ++layer) {
            const int outputs = layer == layers ? shape_.outputs : shape_.widths[layer];
            const int before = layer == 0 ? skip : 0;
            const int stride = before + (layer == 0 ? shape_.inputs : shape_.widths[layer - 1]);
            require(weight[layer], size_t(shape_.members) * outputs * stride, "weight");
            if (bias[layer]) require(*bias[layer], size_t(shape_.members) * outputs, "bias");
            for (int member = 0; member < shape_.members; ++member) {
                sorl::Numbers<T>& to = members[member];
                to.weight.push_back(weight[layer].data() + size_t(member) * outputs * stride + before);
                to.stride.push_back(stride);
                to.bias.push_back(bias[layer] ? bias[layer]->data() + size_t(member) * outputs : nullptr);
                if (layer == layers || norms == 0) continue;
                require(scale[layer], size_t(shape_.members) * outputs, "scale");
                require(shift[layer], size_t(shape_.members) * outputs, "shift");
                to.scale.push_back(scale[layer].data() + size_t(member) * outputs);
                to.shift.push_back(shift[layer].data() + size_t(member) * outputs);
            }
        }
        return members;
    }

    int check(const In<float>& input, const std::optional<In<float>>& share, const Out<float>& output) const {
        const size_t rows = input.size() / shape_.inputs;
        if (rows == 0) throw std::invalid_argument("input: expected at least one row");
        require(input, rows * shape_.inputs, "input");
        if (share && shape_.members != 1) throw std::invalid_argument("share: expected none for an ensemble");
        if (share) require(*share, rows * shape_.widths[0], "share");
        require(output, rows * shape_.members * shape_.outputs, "output");
        return int(rows);
    }

    std::unique_ptr<sorl::Tape> take(int rows) {
        {
            const std::lock_guard<std::mutex> lock(spare_->mutex);
            auto& spare = spare_->by_rows[rows];
            if (!spare.empty()) {
                auto tape = std::move(spare.back());
                spare.pop_back();
                return tape;
            }
        }
        return stack_->make_tape(rows);
    }

    std::shared_ptr<sorl::Pool> pool_;
    std::shared_ptr<SpareTapes> spare_;
    sorl::StackShape shape_;
    std::unique_ptr<sorl::Stack> stack_;
};

// Optimiser updates of lists of arrays, on all threads of a pool.
class ParallelUpdates {
   public:
    ParallelUpdates(std::shared_ptr<sorl::Pool> pool, const std::string& isa)
        : pool_(std::move(pool)), updates_(sorl::make_updates(isa)) {}

    void adam(const std::vector<Out<float>>& parameters, const std::vector<Out<float>>& gradients,
              const std::vector<Out<float>>& means, const std::vector<Out<float>>& squares, float scale,
              float learning_rate, float beta1, float beta2, float epsilon, float correction1, float root_correction2) {
        const sorl::AdamStep step{scale, learning_rate, beta1, beta2, epsilon, correction1, root_correction2};
        if (gradients.size() != parameters.size() || means.size() != parameters.size() || squares.size() != parameters.size())
            throw std::invalid_argument("gradients: expected one for each parameter");
        for (size_t i = 0; i < parameters.size(); ++i) {
            require(gradients[i], parameters[i].size(), "gradient");
            require(means[i], parameters[i].size(), "mean");
            require(squares[i], parameters[i].size(), "square");
        }
        over_chunks(parameters, [&](size_t array, size_t begin, size_t count, size_t) {
            updates_.adam(parameters[array].data() + begin, gradients[array].data() + begin, means[array].data() + begin,
                          squares[array].data() + begin, count, step);
        });
    }

    void move_average(const std::vector<Out<float>>& targets, const std::vector<In<float>>& online, float tau) {
        if (online.size() != targets.size()) throw std::invalid_argument("online: expected one for each target");
        for (size_t i = 0; i < targets.size(); ++i) require(online[i], targets[i].size(), "online");
        over_chunks(targets, [&](size_t array, size_t begin, size_t count, size_t) {
            updates_.move_average(targets[array].data() + begin, online[array].data() + begin, count, tau);
        });
    }

    // The sums of chunks are added in order, so the result does not depend on the number of threads.
    double sum_of_squares(const std::vector<In<float>>& arrays) {
        std::vector<double> sums;
        for (const auto& array : arrays) sums.resize(sums.size() + (array.size() + chunk - 1) / chunk);
        over_chunks(arrays, [&](size_t array, size_t begin, size_t count, size_t number) {
            sums[number] = updates_.sum_of_squares(arrays[array].data() + begin, count);
        });
        double total = 0.0;
        for (const double part : sums) total += part;
        return total;
    }

   private:
    static constexpr size_t chunk = 1 << 15;

    // Calls of(array, begin, count, index of the chunk) for each chunk of each array.
    template <class Arrays, class Of>
    void over_chunks(const Arrays& arrays, const Of& of) {
        struct Place {
            size_t array, begin, count;
        };
        std::vector<Place> places;
        for (size_t array = 0; array < arrays.size(); ++array)
            for (size_t begin = 0; begin < arrays[array].size(); begin += chunk)
                places.push_back({array, begin, std::min(chunk, arrays[array].size() - begin)});
        struct Job {
            const std::vector<Place>& places;
            const Of& of;
            std::atomic<size_t> next{0};
        } job{places, of};
        const nb::gil_scoped_release unlocked;
        pool_->run(pool_->size(), [](void* context, int) {
            Job& job = *static_cast<Job*>(context);
            for (size_t i; (i = job.next.fetch_add(1)) < job.places.size();)
                job.of(job.places[i].array, job.places[i].begin, job.places[i].count, i);
        }, &job);
    }

    std::shared_ptr<sorl::Pool> pool_;
    const sorl::Updates updates_;
};

}  // namespace

void bind_stack(nb::module_& m) {
    nb::class_<sorl::Pool>(m, "Pool").def(nb::init<int>(), "threads"_a);
    nb::class_<Taken>(m, "Tape");
    nb::class_<LearningStack>(m, "Stack")
        .def(nb::init<std::shared_ptr<sorl::Pool>, const std::string&, const std::string&, int, int,
                      const std::vector<int>&, int, std::optional<float>>(),
             nb::kw_only(), "pool"_a, "isa"_a, "precision"_a, "members"_a, "inputs"_a, "widths"_a, "outputs"_a,
             "layer_norm_eps"_a.none())
        .def("pack", &LearningStack::pack, nb::kw_only(), "weight"_a, "bias"_a, "scale"_a, "shift"_a, "skip"_a, "backward"_a)
        .def("forward", &LearningStack::forward, "input"_a, "share"_a.none(), "output"_a)
        .def("record", &LearningStack::record, "input"_a, "share"_a.none(), "output"_a)
        .def("backward", &LearningStack::backward, "tape"_a, "d_output"_a, nb::kw_only(), "first"_a, "d_input"_a.none(),
             "d_share"_a.none(), "weight"_a, "bias"_a, "scale"_a, "shift"_a, "skip"_a);
    nb::class_<ParallelUpdates>(m, "Updates")
        .def(nb::init<std::shared_ptr<sorl::Pool>, const std::string&>(), "pool"_a, "isa"_a)
        .def("adam", &ParallelUpdates::adam, nb::kw_only(), "parameters"_a, "gradients"_a, "means"_a, "squares"_a,
             "scale"_a, "learning_rate"_a, "beta1"_a, "beta2"_a, "epsilon"_a, "correction1"_a, "root_correction2"_a)
        .def("move_average", &ParallelUpdates::move_average, nb::kw_only(), "targets"_a, "online"_a, "tau"_a)
        .def("sum_of_squares", &ParallelUpdates::sum_of_squares, "arrays"_a);
}
