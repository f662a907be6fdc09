// The engine for one instruction set. A thread takes a tile of rows through all layers, from noise to value.
//
// An element of a product is one accumulator, however many rows and threads there are. So an action's bits depend on
// its request alone.
//
// Each isa_*.cpp includes this once, inside its own namespace, after product.hpp.

// A first layer. The observation's share is one product per request. The other inputs (action; t and d, or k) are few,
// so they are added row by row in float32.
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

    // One vector of a row's outputs: share + sum of value_i * column_i.
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
    Aligned<float> last;                       // the output layer's weights
    float last_bias;
};

// A batch as rows, sorted by descending M and divided into tiles. The owner (the calling thread) and the helpers take
// tiles. The inputs are copied, because a helper may still read them after the owner has returned.
struct Rows : Helpers::Job {
    // A tile is open until a thread takes it. When none is open, the owner also computes tiles in state `helping`.
    enum State { open, owner, helping, helped };
    using Help = void (*)(void* engine, Rows& rows, int tile, int rank);
    struct Output {  // of all rows: action (rows, action_dim), q (members, rows)
        std::vector<float> action, q;
    };

    Rows(const Policy& policy, const Batch& batch) {
        std::vector<int> order(batch.requests);
        for (int r = 0; r < batch.requests; ++r) order[r] = r;
        std::stable_sort(order.begin(), order.end(),
                         [&](int a, int b) { return batch.num_steps[a] > batch.num_steps[b]; });
        first_row.assign(batch.requests, 0);
        for (const int of : order) {
            first_row[of] = static_cast<int>(request.size());
            passes += int64_t{batch.num_candidates[of]} * (batch.num_steps[of] + policy.members);
            for (int i = 0; i < batch.num_candidates[of]; ++i) {
                request.push_back(of);
                candidate.push_back(batch.first_candidate[of] + i);
                steps.push_back(batch.num_steps[of]);
            }
        }
        observation.assign(batch.observation, batch.observation + size_t(batch.requests) * policy.obs_dim);
        seed.assign(batch.seed, batch.seed + batch.requests);
        temperature.assign(batch.temperature, batch.temperature + batch.requests);
    }

    int count() const { return static_cast<int>(request.size()); }
    int first_of(int tile) const { return static_cast<int>(int64_t{count()} * tile / tiles); }
    int rows_of(int tile) const { return first_of(tile + 1) - first_of(tile); }

    void divide(const Policy& policy, int tiles_in, bool with_help) {
        tiles = tiles_in;
        state = std::make_unique<std::atomic<int>[]>(tiles);  // all open
        for (int which = 0; which < (with_help ? 2 : 1); ++which) {
            output[which].action.resize(size_t(count()) * policy.action_dim);
            output[which].q.resize(size_t(count()) * policy.members);
        }
    }

    bool take(int tile, State from, State to) {
        int expected = from;
        return state[tile].compare_exchange_strong(expected, to, std::memory_order_acq_rel);
    }

    // Helpers take tiles from the end, the owner from the beginning. The owner never waits for them.
    void help(int rank) override {
        for (int tile = tiles - 1; tile > 0; --tile) {
            if (!take(tile, open, helping)) continue;
            run(engine, *this, tile, rank);
            take(tile, helping, helped);
        }
    }

    // The output that has a finished row: the owner's or the helpers'.
    const Output& at(int row) const {
        int tile = static_cast<int>(int64_t{row} * tiles / count());  // rounding may give a neighbour
        while (row < first_of(tile)) --tile;
        while (row >= first_of(tile + 1)) ++tile;
        return output[state[tile].load(std::memory_order_relaxed) == helped];
    }

    std::vector<int> first_row;  // per request
    std::vector<int> request, candidate, steps;  // per row
    std::vector<float> observation, temperature;
    std::vector<uint64_t> seed;
    int64_t passes = 0;  // row passes through a network
    int tiles = 0;
    std::unique_ptr<std::atomic<int>[]> state;
    Output output[2];  // the owner's and the helpers'
    void* engine = nullptr;
    Help run = nullptr;
};

template <class P>
class TileEngine final : public Engine {
   public:
    TileEngine(const Policy& policy, int threads)
        : p_(policy), actor_first_(actor_first(policy)), helpers_(threads - 1) {
        width_ = width;  // the row length of all buffers
        for (const int size : p_.actor_widths) width_ = std::max(width_, round_up(size, width));
        for (const int size : p_.critic_widths) width_ = std::max(width_, round_up(size, width));
        inputs_ = p_.action_dim + 2;
        for (int rank = 0; rank < threads; ++rank) scratch_.push_back(std::make_unique<Scratch>(*this));
    }

    // The actor's layers after its first, then each critic's.
    bool pack_layer() override {
        const int actor = int(p_.actor_weight.size()) - 1, critic = int(p_.critic_widths.size());
        const int all = actor + p_.members * critic;
        if (packed_ == all) return false;
        const int member = (packed_ - actor) / critic, layer = (packed_ - actor) % critic;
        if (packed_ < actor)
            actor_.push_back(actor_layer(packed_ + 1));
        else if (layer == 0)
            critics_.push_back(make_member(member));
        else
            critics_[member].hidden.push_back(critic_layer(member, layer));
        return ++packed_ < all;
    }

    void sample_and_score(const Batch& batch, const Result& result) override;

   private:
    struct Scratch {  // one thread's buffers for a tile
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

    // A tile that a thread computes. If another thread finishes it first, this one stops at the next layer.
    struct Tile {
        Rows& rows;
        Rows::Output& output;
        Rows::State taken;  // the tile's state until another thread has finished it
        int number, row, count;
        Scratch& mine;
        bool lost() const { return rows.state[number].load(std::memory_order_relaxed) != taken; }
    };

    static FirstLayer actor_first(const Policy& p) {
        return FirstLayer(p.actor_weight[0], p.actor_bias[0], p.actor_widths[0], p.obs_dim, p.action_dim, 2);
    }

    Layer<P> actor_layer(int layer) const {
        const bool last = layer + 1 == int(p_.actor_weight.size());
        const int inputs = p_.actor_widths[layer - 1], outputs = last ? p_.action_dim : p_.actor_widths[layer];
        return Layer<P>(p_.actor_weight[layer], p_.actor_bias[layer], outputs, inputs, inputs, round_up(inputs, width));
    }

    Layer<P> critic_layer(int member, int layer) const {
        const int inputs = p_.critic_widths[layer - 1], outputs = p_.critic_widths[layer];
        return Layer<P>(p_.critic_weight[layer] + size_t(member) * outputs * inputs,
                        p_.critic_bias[layer] + size_t(member) * outputs, outputs, inputs, inputs, round_up(inputs, width));
    }

    // A critic without its hidden layers after the first.
    Member<P> make_member(int member) const {
        const std::vector<int>& widths = p_.critic_widths;
        const int first_inputs = p_.obs_dim + p_.action_dim + int(p_.conditioned);
        const auto at = [&](const float* stack, int size) { return stack + size_t(member) * size; };
        FirstLayer first(at(p_.critic_weight[0], widths[0] * first_inputs), at(p_.critic_bias[0], widths[0]), widths[0],
                         p_.obs_dim, p_.action_dim, int(p_.conditioned));
        Member<P> made{std::move(first), {}, {}, {}, Aligned<float>(round_up(widths.back(), width)), 0.0f};
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

    void run_tile(Rows& rows, int tile, Rows::State taken, int rank);
    void take_over(Rows& rows);
    void shares(const FirstLayer& layer, const Tile& tile);
    template <class Put>
    void first(const FirstLayer& layer, int inputs, int count, const Tile& tile, const Put& put);
    void act(const Tile& tile);
    void score(int member, const Tile& tile);
    template <class Put>
    void normalise(const Member<P>& critic, size_t layer, const float* in, int rows, const Put& put);
    void select(const Batch& batch, const Rows& rows, const Result& result) const;
    float spread_of(const Rows::Output& found, size_t row, size_t all) const;

    const Policy p_;
    FirstLayer actor_first_;
    std::vector<Layer<P>> actor_;  // hidden layers after the first, then the output
    std::vector<Member<P>> critics_;
    int packed_ = 0;  // layers
    int width_, inputs_;
    std::vector<std::unique_ptr<Scratch>> scratch_;
    Helpers helpers_;  // the last member: its threads use the others
};

template <class P>
void TileEngine<P>::sample_and_score(const Batch& batch, const Result& result) {
    while (pack_layer()) {
    }
    const auto rows = std::make_shared<Rows>(p_, batch);
    const int threads = 1 + helpers_.count(), count = rows->count();
    // Small batches are not worth waking helpers.
    const bool with_help = threads > 1 && count >= helped_rows && rows->passes >= alone_passes;
    const int least = (count + tile_rows - 1) / tile_rows, many = (count + helped_tile_rows - 1) / helped_tile_rows;
    rows->divide(p_, with_help ? std::min(round_up(many, threads), count) : least, with_help);
    rows->state[0].store(Rows::owner, std::memory_order_relaxed);
    if (with_help) {
        rows->engine = this;
        rows->run = [](void* engine, Rows& rows, int tile, int rank) {
            static_cast<TileEngine*>(engine)->run_tile(rows, tile, Rows::helping, rank);
        };
        helpers_.invite(rows);
    }
    for (int tile = 0; tile < rows->tiles; ++tile)
        if (tile == 0 || rows->take(tile, Rows::open, Rows::owner)) run_tile(*rows, tile, Rows::owner, 0);
    take_over(*rows);
    select(batch, *rows, result);
}

// Computes the tiles that helpers have not finished, in the order in which they took them. Whichever thread finishes a
// tile first provides its result. To wait instead could take long, because a helper may have lost its core.
template <class P>
void TileEngine<P>::take_over(Rows& rows) {
    for (int tile = rows.tiles - 1; tile > 0; --tile) {
        if (rows.state[tile].load(std::memory_order_acquire) != Rows::helping) continue;
        run_tile(rows, tile, Rows::helping, 0);
        rows.take(tile, Rows::helping, Rows::owner);
    }
}

template <class P>
void TileEngine<P>::run_tile(Rows& rows, int tile, Rows::State taken, int rank) {
    const Tile work{rows, rows.output[rank > 0], taken, tile, rows.first_of(tile), rows.rows_of(tile), *scratch_[rank]};
    act(work);
    for (int member = 0; member < p_.members && !work.lost(); ++member) score(member, work);
}

// Computes the observation's share of `layer` for each request that has rows in the tile, in order of requests.
template <class P>
void TileEngine<P>::shares(const FirstLayer& layer, const Tile& tile) {
    // A request's rows are consecutive. Gather the observations, one row per request.
    float* gathered = tile.mine.observations.data;
    int count = 0;
    for (int i = 0, last = -1; i < tile.count; ++i) {
        const int request = tile.rows.request[tile.row + i];
        if (request == last) continue;
        std::memcpy(gathered + size_t(count++) * p_.obs_dim, tile.rows.observation.data() + size_t(request) * p_.obs_dim,
                    sizeof(float) * p_.obs_dim);
        last = request;
    }
    product(layer.share, gathered, p_.obs_dim, count, Store{tile.mine.share.data, width_});
}

// First layer, bias and GELU of `count` rows: `inputs` values beside each request's share, through
// `put(row, column, vector)`.
template <class P>
template <class Put>
void TileEngine<P>::first(const FirstLayer& layer, int inputs, int count, const Tile& tile, const Put& put) {
    const int* request = tile.rows.request.data() + tile.row;
    const float* share = tile.mine.share.data;
    for (int i = 0; i < count; ++i) {
        if (i > 0 && request[i] != request[i - 1]) share += width_;
        const float* values = tile.mine.values.data + size_t(i) * inputs_;
        for (int column = 0; column < layer.outputs; column += width)
            put(i, column, gelu(layer.at(share, values, inputs, column)));
    }
}

// Noise to action: M Euler steps of every row. Rows are in the order of descending M, so those still moving lead.
template <class P>
void TileEngine<P>::act(const Tile& tile) {
    const Rows& rows = tile.rows;
    const int dims = p_.action_dim, stride = round_up(dims, width);
    const int* steps = rows.steps.data() + tile.row;
    float* values = tile.mine.values.data;
    for (int i = 0; i < tile.count; ++i) {
        const int request = rows.request[tile.row + i];
        float* x = values + size_t(i) * inputs_;
        standard_normals(rows.seed[request], static_cast<uint32_t>(rows.candidate[tile.row + i]), dims, x);
        for (int dim = 0; dim < dims; ++dim) x[dim] *= rows.temperature[request];
    }
    shares(actor_first_, tile);
    int which = 0;
    for (int step = 0, moving = tile.count; step < steps[0] && !tile.lost(); ++step) {
        while (steps[moving - 1] <= step) --moving;
        for (int i = 0; i < moving; ++i) {
            const size_t entry = size_t(steps[i]) * p_.max_steps + step;
            values[size_t(i) * inputs_ + dims] = p_.step_t[entry];
            values[size_t(i) * inputs_ + dims + 1] = p_.step_log2[entry];
        }
        first(actor_first_, dims + 2, moving, tile, StoreActivated<P>{tile.mine.hidden(which), width_});
        for (size_t layer = 0; layer + 1 < actor_.size() && !tile.lost(); ++layer, which = 1 - which)
            product(actor_[layer], tile.mine.hidden(which), width_, moving,
                    StoreInput<P>{tile.mine.hidden(1 - which), width_});
        product(actor_.back(), tile.mine.hidden(which), width_, moving, Store{tile.mine.velocity.data, stride});
        for (int i = 0; i < moving; ++i) {
            float* x = values + size_t(i) * inputs_;
            const float size = std::ldexp(1.0f, -static_cast<int>(x[dims + 1]));
            for (int dim = 0; dim < dims; ++dim) x[dim] += size * tile.mine.velocity.data[size_t(i) * stride + dim];
        }
    }
    for (int i = 0; i < tile.count; ++i) {
        float* x = values + size_t(i) * inputs_;
        for (int dim = 0; dim < dims; ++dim) x[dim] = x[dim] < -1.0f ? -1.0f : x[dim] > 1.0f ? 1.0f : x[dim];
        std::memcpy(tile.output.action.data() + size_t(tile.row + i) * dims, x, sizeof(float) * dims);
    }
}

// Computes one critic's value of each row's action.
template <class P>
void TileEngine<P>::score(int member, const Tile& tile) {
    const Member<P>& critic = critics_[member];
    for (int i = 0; i < tile.count; ++i)
        tile.mine.values.data[size_t(i) * inputs_ + p_.action_dim] = p_.critic_steps[tile.rows.steps[tile.row + i]];
    shares(critic.first, tile);
    int which = 0;
    first(critic.first, p_.action_dim + int(p_.conditioned), tile.count, tile, Store{tile.mine.wide(which), width_});
    for (size_t layer = 0; layer < critic.hidden.size() && !tile.lost(); ++layer, which = 1 - which) {
        typename P::In* in = tile.mine.normed.data;
        normalise(critic, layer, tile.mine.wide(which), tile.count,
                  [&](int i, int column, Vector v) { P::put(in + size_t(i) * width_ + column, v); });
        product(critic.hidden[layer], in, width_, tile.count, StoreGelu{tile.mine.wide(1 - which), width_});
    }
    float* q = tile.output.q.data() + size_t(member) * tile.rows.count() + tile.row;
    Vector total = splat(0.0f);
    const int end = round_up(p_.critic_widths.back(), width);
    normalise(critic, critic.hidden.size(), tile.mine.wide(which), tile.count, [&](int i, int column, Vector v) {
        total = fma(v, load(critic.last.data + column), column == 0 ? splat(0.0f) : total);
        if (column + width == end) q[i] = sum(total) + critic.last_bias;
    });
}

// Calls `put(row, column, vector)` with the LayerNorm of `layer`'s activations, or with the activations if it has none.
template <class P>
template <class Put>
void TileEngine<P>::normalise(const Member<P>& critic, size_t layer, const float* in, int rows, const Put& put) {
    const int size = p_.critic_widths[layer], end = round_up(size, width);
    if (!p_.layer_norm) {
        for (int i = 0; i < rows; ++i)
            for (int column = 0; column < end; column += width) put(i, column, load(in + size_t(i) * width_ + column));
        return;
    }
    const Vector mask = inside(size);  // keeps padding out of the variance
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

// The standard deviation over the members of a row's value.
template <class P>
float TileEngine<P>::spread_of(const Rows::Output& found, size_t row, size_t all) const {
    const int members = p_.members;
    double mean = 0.0, spread = 0.0;
    for (int member = 0; member < members; ++member) mean += double(found.q[member * all + row]) / members;
    for (int member = 0; member < members; ++member) {
        const double off = double(found.q[member * all + row]) - mean;
        spread += off * off / members;
    }
    return static_cast<float>(std::sqrt(spread));
}

// Selects each request's row of the highest value; among equals, the lowest candidate.
template <class P>
void TileEngine<P>::select(const Batch& batch, const Rows& rows, const Result& out) const {
    const size_t all = rows.request.size();
    const int dims = p_.action_dim, members = p_.members;
    for (int request = 0; request < batch.requests; ++request) {
        size_t best = 0, output = 0;
        float best_q = 0.0f;
        double total = 0.0, squares = 0.0;
        bool finite = true;
        for (int before = 0; out.candidates != nullptr && before < request; ++before)
            output += batch.num_candidates[before];
        for (int candidate = 0; candidate < batch.num_candidates[request]; ++candidate) {
            const size_t row = size_t(rows.first_row[request]) + candidate;
            const Rows::Output& found = rows.at(static_cast<int>(row));
            float q = found.q[row];
            bool fine = std::isfinite(q);
            for (int member = 1; member < members; ++member) {
                const float other = found.q[member * all + row];
                q = p_.least ? std::min(q, other) : q + other;
                fine = fine && std::isfinite(other);
            }
            if (!p_.least) q /= float(members);
            for (int dim = 0; dim < dims; ++dim) fine = fine && std::isfinite(found.action[row * dims + dim]);
            finite = finite && fine && std::isfinite(q);
            if (candidate == 0) out.q_first[request] = q;
            if (candidate == 0 || q > best_q) best = row, best_q = q;
            total += q;
            squares += double(q) * q;
            if (out.candidates != nullptr) {
                std::memcpy(out.candidates + (output + candidate) * dims, &found.action[row * dims], sizeof(float) * dims);
                out.candidate_q[output + candidate] = q;
                out.candidate_q_std[output + candidate] = spread_of(found, row, all);
            }
        }
        const Rows::Output& chosen = rows.at(static_cast<int>(best));
        std::memcpy(out.action + size_t(request) * dims, &chosen.action[best * dims], sizeof(float) * dims);
        out.q[request] = best_q;
        out.q_std[request] = spread_of(chosen, best, all);
        out.index[request] = rows.candidate[best];
        out.q_sum[request] = static_cast<float>(total);
        out.q_sumsq[request] = static_cast<float>(squares);
        out.nonfinite[request] = !finite;
    }
}

static inline std::unique_ptr<Engine> make(const Policy& policy, Precision precision, int threads) {
    if (precision == Precision::bf16) return std::make_unique<TileEngine<Bf16>>(policy, threads);
    return std::make_unique<TileEngine<Fp32>>(policy, threads);
}
