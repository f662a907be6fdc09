// The engine for one instruction set: a tile of rows from noise to value.
//
// Included once by each isa_*.cpp inside a namespace of its own, after product.hpp. An element of a product is one
// accumulator whatever the number of rows, threads or neighbours: an action's bits depend on its request alone.

// A first layer: the observation's share is a product per request; the few columns beside it (action; t and d, or k)
// are added row by row in float32.
struct FirstLayer {
    FirstLayer(const float* weight, const float* bias, int outputs_in, int obs_dim, int action_dim, int scalars)
        : outputs(round_up(outputs_in, width)),
          share(weight, bias, outputs_in, obs_dim, obs_dim + action_dim + scalars, obs_dim),
          columns(size_t(action_dim + scalars) * round_up(outputs_in, width)) {
        const int stride = obs_dim + action_dim + scalars;
        for (int column = 0; column < action_dim + scalars; ++column)
            for (int row = 0; row < outputs_in; ++row)
                columns.data[size_t(column) * outputs + row] = weight[size_t(row) * stride + obs_dim + column];
    }

    // share + sum of value_i * column_i, at one vector of columns.
    inline Vector at(const float* share_row, const float* values, int count, int column) const {
        Vector v = load(share_row + column);
        for (int i = 0; i < count; ++i) v = fma(splat(values[i]), load(columns.data + size_t(i) * outputs + column), v);
        return v;
    }

    int outputs;
    Layer<Fp32> share;
    Aligned<float> columns;  // (action_dim + scalars, outputs)
};

template <class P>
struct Member {  // one critic
    FirstLayer first;
    std::vector<Layer<P>> hidden;
    std::vector<Aligned<float>> scale, shift;  // LayerNorm of each hidden layer, if any
    Aligned<float> last;                       // the output's weights
    float last_bias;
};

template <class P>
class TileEngine final : public Engine {
   public:
    TileEngine(const Policy& policy, int threads)
        : p_(policy), pool_(threads), actor_first_(actor_first(policy)), actor_(hidden_layers(policy)) {
        for (int member = 0; member < p_.members; ++member) critics_.push_back(make_member(member));
        width_ = width;  // of every buffer's row
        for (const int size : p_.actor_widths) width_ = std::max(width_, round_up(size, width));
        for (const int size : p_.critic_widths) width_ = std::max(width_, round_up(size, width));
        inputs_ = p_.action_dim + 2;
        for (int rank = 0; rank < threads; ++rank) scratch_.push_back(std::make_unique<Scratch>(*this));
    }

    void sample_and_score(const Batch& batch, const Result& result) override;

   private:
    struct Scratch {  // buffers of one tile, or of a team's shared one
        explicit Scratch(const TileEngine& engine)
            : share(size_t(tile_rows) * engine.width_),
              hidden0(size_t(tile_rows) * engine.width_),
              hidden1(size_t(tile_rows) * engine.width_),
              wide0(size_t(tile_rows) * engine.width_),
              wide1(size_t(tile_rows) * engine.width_),
              normed(size_t(tile_rows) * engine.width_),
              observations(size_t(tile_rows) * engine.p_.obs_dim),
              values(size_t(tile_rows) * engine.inputs_),
              velocity(size_t(tile_rows) * round_up(engine.p_.action_dim, width)) {}
        typename P::In* hidden(int which) { return which ? hidden1.data : hidden0.data; }
        float* wide(int which) { return which ? wide1.data : wide0.data; }
        Aligned<float> share;
        Aligned<typename P::In> hidden0, hidden1;
        Aligned<float> wide0, wide1;
        Aligned<typename P::In> normed;
        Aligned<float> observations;
        Aligned<float> values;    // a row's x, t, d (or action, k)
        Aligned<float> velocity;  // the actor's output
    };

    // Threads that work on one tile: each has its own scratch, layers' results go to the first's.
    struct Team {
        int rank, size;
        Barrier* barrier;
        Scratch& mine;
        Scratch& shared;
    };

    struct Job {
        TileEngine* engine;
        const Batch* batch;
        int tile, team;
        std::atomic<int> next;
        Barrier* barrier;
    };

    static FirstLayer actor_first(const Policy& p) {
        return FirstLayer(p.actor_weight[0], p.actor_bias[0], p.actor_widths[0], p.obs_dim, p.action_dim, 2);
    }

    static std::vector<Layer<P>> hidden_layers(const Policy& p) {
        std::vector<Layer<P>> layers;
        for (size_t layer = 1; layer < p.actor_weight.size(); ++layer) {
            const bool last = layer + 1 == p.actor_weight.size();
            const int inputs = p.actor_widths[layer - 1], outputs = last ? p.action_dim : p.actor_widths[layer];
            layers.emplace_back(p.actor_weight[layer], p.actor_bias[layer], outputs, inputs, inputs,
                                round_up(inputs, width));
        }
        return layers;
    }

    Member<P> make_member(int member) const {
        const std::vector<int>& widths = p_.critic_widths;
        const int first_inputs = p_.obs_dim + p_.action_dim + int(p_.conditioned);
        const auto at = [&](const float* stack, int size) { return stack + size_t(member) * size; };
        FirstLayer first(at(p_.critic_weight[0], widths[0] * first_inputs), at(p_.critic_bias[0], widths[0]), widths[0],
                         p_.obs_dim, p_.action_dim, int(p_.conditioned));
        Member<P> made{std::move(first), {}, {}, {}, Aligned<float>(round_up(widths.back(), width)), 0.0f};
        for (size_t layer = 1; layer < widths.size(); ++layer) {
            const int inputs = widths[layer - 1], outputs = widths[layer];
            made.hidden.emplace_back(at(p_.critic_weight[layer], outputs * inputs), at(p_.critic_bias[layer], outputs),
                                     outputs, inputs, inputs, round_up(inputs, width));
        }
        for (size_t layer = 0; p_.layer_norm && layer < widths.size(); ++layer) {
            made.scale.emplace_back(round_up(widths[layer], width));
            made.shift.emplace_back(round_up(widths[layer], width));
            std::memcpy(made.scale.back().data, at(p_.norm_weight[layer], widths[layer]), sizeof(float) * widths[layer]);
            std::memcpy(made.shift.back().data, at(p_.norm_bias[layer], widths[layer]), sizeof(float) * widths[layer]);
        }
        std::memcpy(made.last.data, at(p_.critic_weight.back(), widths.back()), sizeof(float) * widths.back());
        made.last_bias = *at(p_.critic_bias.back(), 1);
        return made;
    }

    void plan(const Batch& batch);
    void run_tile(const Batch& batch, int row, int rows, const Team& team);
    void shares(const FirstLayer& layer, const Batch& batch, int row, int rows, const Team& team);
    template <class Put>
    void first(const FirstLayer& layer, int count, int row, int rows, const Team& team, const Put& put);
    void act(const Batch& batch, int row, int rows, const Team& team);
    void score(int member, const Batch& batch, int row, int rows, const Team& team);
    template <class Put>
    void normalise(const Member<P>& critic, size_t layer, const float* in, int rows, const Put& put);
    void select(const Batch& batch, const Result& result) const;

    const Policy p_;
    Pool pool_;
    FirstLayer actor_first_;
    std::vector<Layer<P>> actor_;  // hidden layers after the first, then the output
    std::vector<Member<P>> critics_;
    int width_, inputs_;
    std::vector<std::unique_ptr<Scratch>> scratch_;

    // The batch's rows, by descending M.
    std::vector<int> order_, first_row_, row_request_, row_candidate_, row_steps_;
    int64_t passes_ = 0;             // rows through a network
    std::vector<float> action_, q_;  // (rows, action_dim), (members, rows)
};

template <class P>
void TileEngine<P>::plan(const Batch& batch) {
    order_.resize(batch.requests);
    for (int r = 0; r < batch.requests; ++r) order_[r] = r;
    std::stable_sort(order_.begin(), order_.end(),
                     [&](int a, int b) { return batch.num_steps[a] > batch.num_steps[b]; });
    first_row_.assign(batch.requests, 0);
    row_request_.clear();
    row_candidate_.clear();
    row_steps_.clear();
    passes_ = 0;
    for (const int request : order_) {
        first_row_[request] = static_cast<int>(row_request_.size());
        passes_ += int64_t{batch.num_candidates[request]} * (batch.num_steps[request] + p_.members);
        for (int candidate = 0; candidate < batch.num_candidates[request]; ++candidate) {
            row_request_.push_back(request);
            row_candidate_.push_back(batch.first_candidate[request] + candidate);
            row_steps_.push_back(batch.num_steps[request]);
        }
    }
    action_.resize(row_request_.size() * p_.action_dim);
    q_.resize(row_request_.size() * p_.members);
}

template <class P>
void TileEngine<P>::sample_and_score(const Batch& batch, const Result& result) {
    plan(batch);
    const int rows = static_cast<int>(row_request_.size());
    // Next to nothing to do: alone. Few rows: all threads share each layer's columns, so that its weights are read once. Many: tiles of rows.
    const int threads = passes_ < alone_passes ? 1 : pool_.size();
    const bool together = threads > 1 && rows <= std::min(shared_rows * threads, tile_rows);
    const int tiles = round_up((rows + tile_rows - 1) / tile_rows, threads);
    Barrier barrier(together ? threads : 1);
    Job job{this, &batch, together ? rows : (rows + tiles - 1) / tiles, together ? threads : 1, {0}, &barrier};
    const auto work = [](void* context, int rank) {
        Job& job = *static_cast<Job*>(context);
        TileEngine& engine = *job.engine;
        const int rows = static_cast<int>(engine.row_request_.size());
        if (job.team > 1) {
            engine.run_tile(*job.batch, 0, rows,
                            {rank, job.team, job.barrier, *engine.scratch_[rank], *engine.scratch_[0]});
            return;
        }
        Scratch& mine = *engine.scratch_[rank];
        for (int row; (row = job.next.fetch_add(job.tile)) < rows;)
            engine.run_tile(*job.batch, row, std::min(job.tile, rows - row), {0, 1, job.barrier, mine, mine});
    };
    pool_.run(std::min(threads, together ? threads : tiles), work, &job);
    select(batch, result);
}

template <class P>
void TileEngine<P>::run_tile(const Batch& batch, int row, int rows, const Team& team) {
    act(batch, row, rows, team);
    for (int member = 0; member < p_.members; ++member) score(member, batch, row, rows, team);
}

// The observation's share of `layer` for every request that has rows here, in their order.
template <class P>
void TileEngine<P>::shares(const FirstLayer& layer, const Batch& batch, int row, int rows, const Team& team) {
    // Rows are in the order of requests: gather their observations, one row a request.
    float* gathered = team.mine.observations.data;
    int count = 0;
    for (int i = 0, last = -1; i < rows; ++i) {
        const int request = row_request_[row + i];
        if (request == last) continue;
        std::memcpy(gathered + size_t(count++) * p_.obs_dim, batch.observation + size_t(request) * p_.obs_dim,
                    sizeof(float) * p_.obs_dim);
        last = request;
    }
    product(layer.share, gathered, p_.obs_dim, count, team.rank, team.size, Store{team.shared.share.data, width_});
    team.barrier->wait();
}

// First layer, bias and GELU of `rows` rows: `values` beside each request's share, through `put(row, column, vector)`.
template <class P>
template <class Put>
void TileEngine<P>::first(const FirstLayer& layer, int count, int row, int rows, const Team& team, const Put& put) {
    const int vectors = layer.outputs / width;
    const int begin = vectors * team.rank / team.size * width, end = vectors * (team.rank + 1) / team.size * width;
    for (int i = 0, request = 0; i < rows; ++i) {
        request += i > 0 && row_request_[row + i] != row_request_[row + i - 1];
        const float* share = team.shared.share.data + size_t(request) * width_;
        const float* values = team.mine.values.data + size_t(i) * inputs_;
        for (int column = begin; column < end; column += width)
            put(i, column, gelu(layer.at(share, values, count, column)));
    }
    team.barrier->wait();
}

// Noise to action: M Euler steps of every row. Rows are in the order of descending M, so those still moving lead.
template <class P>
void TileEngine<P>::act(const Batch& batch, int row, int rows, const Team& team) {
    const int dims = p_.action_dim, stride = round_up(dims, width);
    float* values = team.mine.values.data;
    for (int i = 0; i < rows; ++i) {
        const int request = row_request_[row + i];
        float* x = values + size_t(i) * inputs_;
        standard_normals(batch.seed[request], static_cast<uint32_t>(row_candidate_[row + i]), dims, x);
        for (int dim = 0; dim < dims; ++dim) x[dim] *= batch.temperature[request];
    }
    shares(actor_first_, batch, row, rows, team);
    int which = 0;  // alternates without a break: what a slower thread still reads is written two barriers later
    for (int step = 0, moving = rows; step < row_steps_[row]; ++step) {
        while (row_steps_[row + moving - 1] <= step) --moving;
        for (int i = 0; i < moving; ++i) {
            const size_t entry = size_t(row_steps_[row + i]) * p_.max_steps + step;
            values[size_t(i) * inputs_ + dims] = p_.step_t[entry];
            values[size_t(i) * inputs_ + dims + 1] = p_.step_log2[entry];
        }
        first(actor_first_, dims + 2, row, moving, team,
              StoreActivated<P>{team.shared.hidden(which), width_});
        for (size_t layer = 0; layer + 1 < actor_.size(); ++layer, which = 1 - which) {
            product(actor_[layer], team.shared.hidden(which), width_, moving, team.rank, team.size,
                    StoreInput<P>{team.shared.hidden(1 - which), width_});
            team.barrier->wait();
        }
        product(actor_.back(), team.shared.hidden(which), width_, moving, 0, 1,
                Store{team.mine.velocity.data, stride});
        which = 1 - which;
        for (int i = 0; i < moving; ++i) {
            float* x = values + size_t(i) * inputs_;
            const float size = std::ldexp(1.0f, -static_cast<int>(x[dims + 1]));
            for (int dim = 0; dim < dims; ++dim) x[dim] += size * team.mine.velocity.data[size_t(i) * stride + dim];
        }
    }
    for (int i = 0; i < rows; ++i) {
        float* x = values + size_t(i) * inputs_;
        for (int dim = 0; dim < dims; ++dim) x[dim] = x[dim] < -1.0f ? -1.0f : x[dim] > 1.0f ? 1.0f : x[dim];
        if (team.rank == 0) std::memcpy(action_.data() + size_t(row + i) * dims, x, sizeof(float) * dims);
    }
}

// One critic's value of every row's action.
template <class P>
void TileEngine<P>::score(int member, const Batch& batch, int row, int rows, const Team& team) {
    const Member<P>& critic = critics_[member];
    for (int i = 0; i < rows; ++i)
        team.mine.values.data[size_t(i) * inputs_ + p_.action_dim] = p_.critic_steps[row_steps_[row + i]];
    shares(critic.first, batch, row, rows, team);
    int which = 0;
    first(critic.first, p_.action_dim + int(p_.conditioned), row, rows, team, Store{team.shared.wide(which), width_});
    for (size_t layer = 0; layer < critic.hidden.size(); ++layer, which = 1 - which) {
        typename P::In* in = team.mine.normed.data;
        normalise(critic, layer, team.shared.wide(which), rows,
                  [&](int i, int column, Vector v) { P::put(in + size_t(i) * width_ + column, v); });
        product(critic.hidden[layer], in, width_, rows, team.rank, team.size,
                StoreGelu{team.shared.wide(1 - which), width_});
        team.barrier->wait();
    }
    if (team.rank != 0) return;
    float* q = q_.data() + size_t(member) * row_request_.size() + row;
    Vector total = splat(0.0f);
    const int end = round_up(p_.critic_widths.back(), width);
    normalise(critic, critic.hidden.size(), team.shared.wide(which), rows, [&](int i, int column, Vector v) {
        total = fma(v, load(critic.last.data + column), column == 0 ? splat(0.0f) : total);
        if (column + width == end) q[i] = sum(total) + critic.last_bias;
    });
}

// LayerNorm (or nothing) of `layer`'s activations, through `put(row, column, vector)`.
template <class P>
template <class Put>
void TileEngine<P>::normalise(const Member<P>& critic, size_t layer, const float* in, int rows, const Put& put) {
    const int size = p_.critic_widths[layer], end = round_up(size, width);
    if (!p_.layer_norm) {
        for (int i = 0; i < rows; ++i)
            for (int column = 0; column < end; column += width) put(i, column, load(in + size_t(i) * width_ + column));
        return;
    }
    const Vector mask = inside(size);  // padding has no part in the variance
    const float *scale = critic.scale[layer].data, *shift = critic.shift[layer].data;
    for (int i = 0; i < rows; ++i) {
        const float* x = in + size_t(i) * width_;
        Vector total = splat(0.0f);
        for (int column = 0; column < end; column += width) total = total + load(x + column);
        const Vector mean = splat(sum(total) / float(size));
        Vector squares = splat(0.0f);
        for (int column = 0; column < end; column += width) {
            const Vector off = (load(x + column) - mean) * (column + width == end ? mask : splat(1.0f));
            squares = fma(off, off, squares);
        }
        const Vector inverse = splat(1.0f / std::sqrt(sum(squares) / float(size) + p_.layer_norm_eps));
        for (int column = 0; column < end; column += width)
            put(i, column, fma((load(x + column) - mean) * inverse, load(scale + column), load(shift + column)));
    }
}

// Each request's best row; the lowest candidate among equals.
template <class P>
void TileEngine<P>::select(const Batch& batch, const Result& out) const {
    const size_t all = row_request_.size();
    const int dims = p_.action_dim, members = p_.members;
    for (int request = 0; request < batch.requests; ++request) {
        size_t best = 0, output = 0;
        float best_q = 0.0f;
        double total = 0.0, squares = 0.0;
        bool finite = true;
        for (int before = 0; out.candidates != nullptr && before < request; ++before)
            output += batch.num_candidates[before];
        for (int candidate = 0; candidate < batch.num_candidates[request]; ++candidate) {
            const size_t row = size_t(first_row_[request]) + candidate;
            float q = q_[row];
            bool fine = std::isfinite(q);
            for (int member = 1; member < members; ++member) {
                const float other = q_[member * all + row];
                q = p_.least ? std::min(q, other) : q + other;
                fine = fine && std::isfinite(other);
            }
            if (!p_.least) q /= float(members);
            for (int dim = 0; dim < dims; ++dim) fine = fine && std::isfinite(action_[row * dims + dim]);
            finite = finite && fine && std::isfinite(q);
            if (candidate == 0) out.q_first[request] = q;
            if (candidate == 0 || q > best_q) best = row, best_q = q;
            total += q;
            squares += double(q) * q;
            if (out.candidates != nullptr) {
                std::memcpy(out.candidates + (output + candidate) * dims, &action_[row * dims], sizeof(float) * dims);
                out.candidate_q[output + candidate] = q;
            }
        }
        double mean = 0.0, spread = 0.0;
        for (int member = 0; member < members; ++member) mean += double(q_[member * all + best]) / members;
        for (int member = 0; member < members; ++member) {
            const double off = double(q_[member * all + best]) - mean;
            spread += off * off / members;
        }
        std::memcpy(out.action + size_t(request) * dims, &action_[best * dims], sizeof(float) * dims);
        out.q[request] = best_q;
        out.q_std[request] = static_cast<float>(std::sqrt(spread));
        out.index[request] = row_candidate_[best];
        out.q_sum[request] = static_cast<float>(total);
        out.q_sumsq[request] = static_cast<float>(squares);
        out.nonfinite[request] = !finite;
    }
}

static inline std::unique_ptr<Engine> make(const Policy& policy, Precision precision, int threads) {
    if (precision == Precision::bf16) return std::make_unique<TileEngine<Bf16>>(policy, threads);
    return std::make_unique<TileEngine<Fp32>>(policy, threads);
}
