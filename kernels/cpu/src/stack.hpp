// Training passes of a stack of dense layers, for one instruction set.
//
// Threads take tiles of rows through all layers, forward or backward, without synchronising. A tile's activations stay
// in a core's L2. Bias, GELU and its derivative are fused into the products. Weight gradients are products over rows:
// the passes also store activations and their gradients in those products' layouts. Once all tiles have gone backward,
// the weight gradients are computed panel by panel.
//
// Each isa_*.cpp includes this once, inside its own namespace, after product.hpp.

// Tiles have a multiple of this many rows, so that they consist of whole transposed blocks.
template <class P>
constexpr int row_quantum = width * P::pack;

template <class P>
struct StackTape final : Tape {
    using In = typename P::In;

    StackTape(const StackShape& shape, int rows_in)
        : rows(rows_in), padded(round_up(rows_in, row_quantum<P>)), input(shape.inputs, padded) {
        for (int member = 0; member < shape.members; ++member)
            for (const int size : shape.widths) {
                activations.emplace_back(size, padded);
                slopes.emplace_back(size_t(padded) * round_up(size, width));
                normed.emplace_back(shape.layer_norm ? size_t(padded) * round_up(size, width) : 0);
                inverses.emplace_back(shape.layer_norm ? padded : 0);
            }
    }

    int rows, padded;
    Panels<P> input;                    // (rows, inputs), for the first layer's weight gradient
    std::vector<Panels<P>> activations; // by member and layer: (rows, width), for the next layer's weight gradient
    std::vector<Aligned<In>> slopes;    // (rows, width), GELU's derivative
    std::vector<Aligned<In>> normed;    // (rows, width), LayerNorm before its scale and shift
    std::vector<Aligned<float>> inverses;  // (rows), 1 / deviation
};

template <class P>
struct PutGelu {  // stores GELU as the next layer's input, and in float32 for LayerNorm or the output layer
    typename P::In* out;
    float* wide;
    typename P::In* slope;
    int stride;
    inline void operator()(int row, int column, Vector v) const {
        const size_t at = size_t(row) * stride + column;
        Vector rise;
        const Vector y = slope != nullptr ? gelu(v, rise) : gelu(v);
        if (slope != nullptr) P::put(slope + at, rise);
        if (out != nullptr) P::put(out + at, y);
        if (wide != nullptr) store(wide + at, y);
    }
};

template <class P>
struct PutTimesSlope {
    typename P::In* out;
    float* wide;
    const typename P::In* slope;
    int stride;
    inline void operator()(int row, int column, Vector v) const {
        const size_t at = size_t(row) * stride + column;
        const Vector product = v * P::get(slope + at);
        P::put(out + at, product);
        if (wide != nullptr) store(wide + at, product);
    }
};

struct AddTo {
    float* out;
    int stride, columns;
    inline void operator()(int row, int column, Vector v) const {
        float* at = out + size_t(row) * stride + column;
        if (column + width <= columns) return store(at, load(at) + v);
        float lanes[width];
        store(lanes, v);
        for (int lane = 0; column + lane < columns; ++lane) at[lane] += lanes[lane];
    }
};

template <class P>
class TileStack final : public Stack {
   public:
    using In = typename P::In;

    TileStack(const StackShape& shape, Pool& pool) : s_(shape), pool_(pool), layers_(int(shape.widths.size())) {
        for (const int size : s_.widths) width_ = std::max(width_, round_up(size, width));
        width_ = std::max(width_, round_up(s_.outputs, width));
        zeros_ = Aligned<float>(std::max(width_, round_up(s_.inputs, width)));
        for (int member = 0; member < s_.members; ++member) members_.emplace_back(s_);
        for (int rank = 0; rank < pool.size(); ++rank) scratch_.emplace_back(s_, width_);
    }

    void pack(const std::vector<Numbers<const float>>& members, bool backward) override;
    std::unique_ptr<Tape> make_tape(int rows) const override { return std::make_unique<StackTape<P>>(s_, rows); }
    void forward(int rows, const float* input, const float* share, float* output, Tape* tape) override;
    void backward(int rows, const float* d_output, int first, int count, float* d_input, float* d_share,
                  const std::vector<Numbers<float>>& members, Tape& tape) override;

   private:
    struct Weights {  // one member's packed weights
        explicit Weights(const StackShape& s) : first(s.widths[0], s.inputs) {
            for (size_t layer = 0; layer < s.widths.size(); ++layer) {
                const int size = round_up(s.widths[layer], width);
                bias.emplace_back(size);
                scale.emplace_back(s.layer_norm ? size : 0);
                shift.emplace_back(s.layer_norm ? size : 0);
                if (layer == 0) continue;
                ahead.emplace_back(s.widths[layer], round_up(s.widths[layer - 1], width));
                back.emplace_back(s.widths[layer - 1], round_up(s.widths[layer], width));
            }
            last_width = round_up(s.widths.back(), width);
            first_width = round_up(s.widths[0], width);
            last = Aligned<float>(size_t(s.outputs) * last_width);
            first_columns = Aligned<float>(size_t(s.inputs) * first_width);
            last_bias = Aligned<float>(s.outputs);
        }
        Panels<Fp32> first;
        std::vector<Panels<P>> ahead, back;  // of hidden layers 1 ..: (out, in) and its transpose
        std::vector<Aligned<float>> bias, scale, shift;
        Aligned<float> last, last_bias;  // the output's weights, (outputs, last_width)
        Aligned<float> first_columns;    // the first layer's, (inputs, first_width)
        int last_width, first_width;
    };

    struct Scratch {  // one thread's buffers
        Scratch(const StackShape& s, int stride)
            : narrow0(size_t(learning_rows) * stride),
              narrow1(size_t(learning_rows) * stride),
              wide0(size_t(learning_rows) * stride),
              wide1(size_t(learning_rows) * stride),
              normed(s.layer_norm ? size_t(2) * s.members * s.widths.size() * stride : 0) {}
        In* narrow(int which) { return which ? narrow1.data : narrow0.data; }
        Aligned<In> narrow0, narrow1;
        Aligned<float> wide0, wide1;
        Aligned<float> normed;  // gradients of LayerNorm's scale and shift, by member and layer
    };

    struct Job {
        TileStack* stack;
        int rows, tile;
        const float *input, *share, *d_output;
        float *output, *d_input, *d_share;
        int first, count;
        const std::vector<Numbers<float>>* gradients;
        StackTape<P>* tape;
        std::atomic<int> next{0};
    };

    int tile_of(int rows) const {
        const int share = (rows + pool_.size() - 1) / pool_.size();
        return std::min(learning_rows, round_up(share, row_quantum<P>));
    }
    static size_t stride_of(int size) { return size_t(round_up(size, width)); }

    template <void (TileStack::*Tile)(Job&, int, int, Scratch&)>
    void over_tiles(Job& job) {
        const auto work = [](void* context, int rank) {
            Job& job = *static_cast<Job*>(context);
            for (int row; (row = job.next.fetch_add(job.tile)) < job.rows;)
                (job.stack->*Tile)(job, row, std::min(job.tile, job.rows - row), job.stack->scratch_[rank]);
        };
        pool_.run(std::min(pool_.size(), (job.rows + job.tile - 1) / job.tile), work, &job);
    }

    void forward_tile(Job& job, int row, int rows, Scratch& mine);
    void forward_member(Job& job, int member, int row, int rows, Scratch& mine);
    void normalise(const Weights& w, size_t entry, int layer, int row, int rows, float* wide, In* out, StackTape<P>* tape);
    void backward_tile(Job& job, int row, int rows, Scratch& mine);
    void backward_member(Job& job, int member, int row, int rows, Scratch& mine);
    void normalise_back(const Weights& w, const StackTape<P>& tape, int member, int layer, int row, int rows, float* wide,
                        Scratch& mine);
    void add_gradients(Job& job, int task);
    void add_bias(const In* transposed, int padded, int outputs, float* bias) const;
    void keep_columns(const In* rows_major, int stride, int columns, int row, int rows, Panels<P>& panels) const;
    void keep_transposed(const In* rows_major, int stride, int columns, int row, int rows, int padded, In* out) const;

    const StackShape s_;
    Pool& pool_;
    const int layers_;
    int width_ = 0;
    Aligned<float> zeros_;
    std::vector<Weights> members_;
    std::vector<Scratch> scratch_;
    std::vector<Aligned<In>> d_hidden_;  // by member and layer, (width, rows): gradients before the GELU
    std::vector<Aligned<In>> d_out_;     // by member, (outputs, rows)
    int d_rows_ = 0;
};

template <class P>
void TileStack<P>::pack(const std::vector<Numbers<const float>>& members, bool backward) {
    struct Packing {
        TileStack* stack;
        const std::vector<Numbers<const float>>* members;
        bool backward;
        int team;
    } packing{this, &members, backward, pool_.size()};
    const auto work = [](void* context, int rank) {
        const Packing& job = *static_cast<Packing*>(context);
        const StackShape& s = job.stack->s_;
        for (int member = 0; member < s.members; ++member) {
            Weights& w = job.stack->members_[member];
            const Numbers<const float>& from = (*job.members)[member];
            for (int layer = 1; layer < job.stack->layers_; ++layer) {
                const int inputs = s.widths[layer - 1], outputs = s.widths[layer];
                w.ahead[layer - 1].fill_transposed(from.weight[layer], from.stride[layer], outputs, inputs, rank, job.team);
                if (job.backward)
                    w.back[layer - 1].fill(from.weight[layer], from.stride[layer], inputs, outputs, rank, job.team);
            }
            if (rank != 0) continue;
            w.first.fill_transposed(from.weight[0], from.stride[0], s.widths[0], s.inputs);
            for (int input = 0; input < s.inputs; ++input)
                for (int output = 0; output < s.widths[0]; ++output)
                    w.first_columns.data[size_t(input) * w.first_width + output] =
                        from.weight[0][size_t(output) * from.stride[0] + input];
            for (int output = 0; output < s.outputs; ++output)
                std::memcpy(w.last.data + size_t(output) * w.last_width,
                            from.weight.back() + size_t(output) * from.stride.back(), sizeof(float) * s.widths.back());
            std::memcpy(w.last_bias.data, from.bias.back(), sizeof(float) * s.outputs);
            for (int layer = 0; layer < job.stack->layers_; ++layer) {
                const size_t bytes = sizeof(float) * s.widths[layer];
                if (from.bias[layer] != nullptr) std::memcpy(w.bias[layer].data, from.bias[layer], bytes);
                if (!s.layer_norm) continue;
                std::memcpy(w.scale[layer].data, from.scale[layer], bytes);
                std::memcpy(w.shift[layer].data, from.shift[layer], bytes);
            }
        }
    };
    pool_.run(pool_.size(), work, &packing);
}

template <class P>
void TileStack<P>::forward(int rows, const float* input, const float* share, float* output, Tape* tape) {
    Job job{this, rows, tile_of(rows), input, share, nullptr, output, nullptr, nullptr, 0, 0, nullptr,
            static_cast<StackTape<P>*>(tape)};
    over_tiles<&TileStack::forward_tile>(job);
}

template <class P>
void TileStack<P>::forward_tile(Job& job, int row, int rows, Scratch& mine) {
    if (job.tape != nullptr) {
        // Store the input for the first layer's weight gradient, through a padded copy because rows have any length.
        for (int i = 0; i < round_up(rows, row_quantum<P>); i += P::pack)
            for (int column = 0; column < job.tape->input.outputs; column += width) {
                float block[P::pack][width] = {};
                for (int part = 0; part < P::pack && i + part < rows; ++part)
                    std::memcpy(block[part], job.input + size_t(row + i + part) * s_.inputs + column,
                                sizeof(float) * std::min(width, s_.inputs - column));
                store_integers(job.tape->input.cells(column, (row + i) / P::pack), P::join_floats(block[0], width));
            }
    }
    for (int member = 0; member < s_.members; ++member) forward_member(job, member, row, rows, mine);
}

template <class P>
void TileStack<P>::forward_member(Job& job, int member, int row, int rows, Scratch& mine) {
    const Weights& w = members_[member];
    StackTape<P>* tape = job.tape;
    int which = 0;
    for (int layer = 0; layer < layers_; ++layer, which = 1 - which) {
        const size_t entry = size_t(member) * layers_ + layer, stride = stride_of(s_.widths[layer]);
        const bool last = layer + 1 == layers_;
        In* slope = tape == nullptr ? nullptr : tape->slopes[entry].data + size_t(row) * stride;
        In* out = mine.narrow(which);
        const PutGelu<P> put{s_.layer_norm ? nullptr : out, s_.layer_norm || last ? mine.wide0.data : nullptr, slope,
                             int(stride)};
        if (layer == 0) {
            Start start{w.bias[0].data, 0};
            if (job.share != nullptr) {
                start = {job.share + size_t(row) * s_.widths[0], s_.widths[0]};
                if (s_.widths[0] % width != 0) {  // whole vectors would read past the end
                    for (int i = 0; i < rows; ++i)
                        std::memcpy(mine.wide1.data + i * stride, start.rows + size_t(i) * s_.widths[0],
                                    sizeof(float) * s_.widths[0]);
                    start = {mine.wide1.data, int(stride)};
                }
            }
            multiply(w.first, job.input + size_t(row) * s_.inputs, s_.inputs, rows, start, put);
        } else {
            multiply(w.ahead[layer - 1], mine.narrow(1 - which), int(stride_of(s_.widths[layer - 1])), rows,
                     Start{w.bias[layer].data, 0}, put);
        }
        if (s_.layer_norm) normalise(w, entry, layer, row, rows, mine.wide0.data, out, tape);
        if (tape != nullptr) keep_columns(out, int(stride), s_.widths[layer], row, rows, tape->activations[entry]);
    }
    for (int i = 0; i < rows; ++i) {
        const float* h = mine.wide0.data + size_t(i) * w.last_width;
        float* out = job.output + (size_t(member) * job.rows + row + i) * s_.outputs;
        for (int output = 0; output < s_.outputs; ++output) {
            const float* weights = w.last.data + size_t(output) * w.last_width;
            Vector even = splat(0.0f), odd = splat(0.0f);
            for (int column = 0; column < w.last_width; column += 2 * width) {
                even = fma(load(h + column), load(weights + column), even);
                if (column + width < w.last_width)
                    odd = fma(load(h + column + width), load(weights + column + width), odd);
            }
            out[output] = sum(even + odd) + w.last_bias.data[output];
        }
    }
}

// Computes LayerNorm of `wide` in place, and stores it in `out` as the next layer's input.
template <class P>
void TileStack<P>::normalise(const Weights& w, size_t entry, int layer, int row, int rows, float* wide, In* out,
                             StackTape<P>* tape) {
    const int size = s_.widths[layer], end = round_up(size, width);
    const float *scale = w.scale[layer].data, *shift = w.shift[layer].data;
    const Vector mask = inside(size);
    for (int i = 0; i < rows; ++i) {
        float* x = wide + size_t(i) * end;
        Vector total = splat(0.0f), squares = splat(0.0f);
        for (int column = 0; column < end; column += width) total = total + load(x + column);
        const Vector mean = splat(sum(total) / float(size));
        for (int column = 0; column < end; column += width) {
            const Vector off = (load(x + column) - mean) * (column + width == end ? mask : splat(1.0f));
            squares = fma(off, off, squares);
        }
        const float inverse = 1.0f / std::sqrt(sum(squares) / float(size) + s_.layer_norm_eps);
        if (tape != nullptr) tape->inverses[entry].data[row + i] = inverse;
        In* normed = tape == nullptr ? nullptr : tape->normed[entry].data + size_t(row + i) * end;
        for (int column = 0; column < end; column += width) {
            const Vector unit = (load(x + column) - mean) * splat(inverse);
            const Vector y = fma(unit, load(scale + column), load(shift + column));
            if (normed != nullptr) P::put(normed + column, unit);
            store(x + column, y);
            P::put(out + size_t(i) * end + column, y);
        }
    }
}

template <class P>
void TileStack<P>::backward(int rows, const float* d_output, int first, int count, float* d_input, float* d_share,
                            const std::vector<Numbers<float>>& members, Tape& tape) {
    auto& taken = static_cast<StackTape<P>&>(tape);
    if (d_rows_ != taken.padded) {
        d_rows_ = taken.padded;
        d_hidden_.clear();
        d_out_.clear();
        for (int member = 0; member < s_.members; ++member) {
            for (const int size : s_.widths) d_hidden_.emplace_back(stride_of(size) * d_rows_);
            d_out_.emplace_back(stride_of(s_.outputs) * d_rows_);
        }
    }
    for (Scratch& scratch : scratch_)
        if (s_.layer_norm) std::memset(scratch.normed.data, 0, sizeof(float) * scratch.normed.size);
    Job job{this, rows, tile_of(rows), nullptr, nullptr, d_output, nullptr, d_input, d_share, first, count, &members, &taken};
    over_tiles<&TileStack::backward_tile>(job);
    if (members.empty()) return;
    job.next = 0;
    const auto work = [](void* context, int) {
        Job& job = *static_cast<Job*>(context);
        int tasks = 0;
        for (int layer = 0; layer <= job.stack->layers_; ++layer)
            tasks += layer == 0 ? job.tape->input.panels() : job.tape->activations[layer - 1].panels();
        tasks *= job.stack->s_.members;
        for (int task; (task = job.next.fetch_add(1)) < tasks;) job.stack->add_gradients(job, task);
    };
    pool_.run(pool_.size(), work, &job);
}

template <class P>
void TileStack<P>::backward_tile(Job& job, int row, int rows, Scratch& mine) {
    for (int member = 0; member < s_.members; ++member) backward_member(job, member, row, rows, mine);
}

template <class P>
void TileStack<P>::backward_member(Job& job, int member, int row, int rows, Scratch& mine) {
    const Weights& w = members_[member];
    const StackTape<P>& tape = *job.tape;
    const float* d_output = job.d_output + (size_t(member) * job.rows + row) * s_.outputs;
    const bool learn = !job.gradients->empty();
    if (learn) {
        const int stride = round_up(s_.outputs, width);
        for (int i = 0; i < rows; ++i)
            for (int output = 0; output < stride; output += width) {
                float block[width] = {};
                std::memcpy(block, d_output + size_t(i) * s_.outputs + output,
                            sizeof(float) * std::min(width, s_.outputs - output));
                P::put(mine.narrow0.data + size_t(i) * stride + output, load(block));
            }
        keep_transposed(mine.narrow0.data, stride, s_.outputs, row, rows, tape.padded, d_out_[member].data);
    }
    int which = 0;
    for (int layer = layers_ - 1; layer >= 0; --layer, which = 1 - which) {
        const size_t entry = size_t(member) * layers_ + layer;
        const int stride = int(stride_of(s_.widths[layer]));
        const In* slope = tape.slopes[entry].data + size_t(row) * stride;
        const bool unfused = s_.layer_norm || layer + 1 == layers_;
        float* wide = mine.wide0.data;
        const PutTimesSlope<P> put{mine.narrow(which), layer == 0 ? wide : nullptr, slope, stride};
        if (layer + 1 == layers_) {
            for (int i = 0; i < rows; ++i)
                for (int column = 0; column < stride; column += width) {
                    Vector v = splat(0.0f);
                    for (int output = 0; output < s_.outputs; ++output)
                        v = fma(splat(d_output[size_t(i) * s_.outputs + output]),
                                load(w.last.data + size_t(output) * stride + column), v);
                    store(wide + size_t(i) * stride + column, v);
                }
        } else {
            const Panels<P>& back = w.back[layer];
            const int inputs = int(stride_of(s_.widths[layer + 1]));
            const Start start{zeros_.data, 0};
            if (unfused)
                multiply(back, mine.narrow(1 - which), inputs, rows, start, Store{wide, stride});
            else
                multiply(back, mine.narrow(1 - which), inputs, rows, start, put);
        }
        if (s_.layer_norm) normalise_back(w, tape, member, layer, row, rows, wide, mine);
        for (int i = 0; i < rows && unfused; ++i)
            for (int column = 0; column < stride; column += width)
                put(i, column, load(wide + size_t(i) * stride + column));
        if (learn) keep_transposed(mine.narrow(which), stride, s_.widths[layer], row, rows, tape.padded, d_hidden_[entry].data);
    }
    const float* d_first = mine.wide0.data;
    for (int i = 0; i < rows && job.d_share != nullptr; ++i)
        std::memcpy(job.d_share + size_t(row + i) * s_.widths[0], d_first + size_t(i) * w.first_width,
                    sizeof(float) * s_.widths[0]);
    for (int i = 0; i < rows && job.d_input != nullptr; ++i)
        for (int input = 0; input < job.count; ++input) {
            const float* column = w.first_columns.data + size_t(job.first + input) * w.first_width;
            Vector total = splat(0.0f);
            for (int at = 0; at < w.first_width; at += width)
                total = fma(load(d_first + size_t(i) * w.first_width + at), load(column + at), total);
            float& out = job.d_input[size_t(row + i) * job.count + input];
            out = sum(total) + (member == 0 ? 0.0f : out);
        }
}

// Turns the gradient of LayerNorm's result into that of its argument, in place.
template <class P>
void TileStack<P>::normalise_back(const Weights& w, const StackTape<P>& tape, int member, int layer, int row, int rows,
                                  float* wide, Scratch& mine) {
    const int size = s_.widths[layer], end = round_up(size, width);
    const size_t entry = size_t(member) * layers_ + layer;
    float* d_scale = mine.normed.data + 2 * entry * width_;
    float* d_shift = d_scale + width_;
    const float* scale = w.scale[layer].data;
    const Vector mask = inside(size);
    for (int i = 0; i < rows; ++i) {
        float* d = wide + size_t(i) * end;
        const In* unit = tape.normed[entry].data + size_t(row + i) * end;
        Vector total = splat(0.0f), along = splat(0.0f);
        for (int column = 0; column < end; column += width) {
            const Vector up = load(d + column), x = P::get(unit + column), v = up * load(scale + column);
            store(d_scale + column, fma(up, x, load(d_scale + column)));
            store(d_shift + column, load(d_shift + column) + up);
            total = total + v;
            along = fma(v, x, along);
            store(d + column, v);
        }
        const Vector mean = splat(sum(total) / float(size)), part = splat(sum(along) / float(size));
        const Vector inverse = splat(tape.inverses[entry].data[row + i]);
        for (int column = 0; column < end; column += width) {
            const Vector v = (load(d + column) - mean - P::get(unit + column) * part) * inverse;
            store(d + column, column + width == end ? v * mask : v);
        }
    }
}

// Computes one panel of columns of a layer's weight gradient; for its first panel, also the layer's vector gradients.
template <class P>
void TileStack<P>::add_gradients(Job& job, int task) {
    StackTape<P>& tape = *job.tape;
    for (int member = 0; member < s_.members; ++member)
        for (int layer = 0; layer <= layers_; ++layer) {
            const size_t entry = size_t(member) * layers_ + layer;
            const Panels<P>& right = layer == 0 ? tape.input : tape.activations[entry - 1];
            if (task >= right.panels()) {
                task -= right.panels();
                continue;
            }
            const bool output = layer == layers_;
            const In* left = output ? d_out_[member].data : d_hidden_[entry].data;
            const int rows = output ? s_.outputs : s_.widths[layer];
            const Numbers<float>& to = (*job.gradients)[member];
            multiply_panel(right, task, left, tape.padded, rows, Start{zeros_.data, 0},
                           AddTo{to.weight[layer], to.stride[layer], layer == 0 ? s_.inputs : s_.widths[layer - 1]});
            if (task != 0) return;
            if (output) {  // from unrounded values: rounding errors would not cancel
                const float* d_output = job.d_output + size_t(member) * job.rows * s_.outputs;
                for (int at = 0; at < s_.outputs; ++at) {
                    double total = 0.0;
                    for (int i = 0; i < job.rows; ++i) total += d_output[size_t(i) * s_.outputs + at];
                    to.bias[layer][at] += static_cast<float>(total);
                }
            } else if (to.bias[layer] != nullptr) {
                add_bias(left, tape.padded, rows, to.bias[layer]);
            }
            for (const Scratch& scratch : scratch_)
                for (int at = 0; s_.layer_norm && !output && at < s_.widths[layer]; ++at) {
                    to.scale[layer][at] += scratch.normed.data[2 * entry * width_ + at];
                    to.shift[layer][at] += scratch.normed.data[(2 * entry + 1) * width_ + at];
                }
            return;
        }
}

template <class P>
void TileStack<P>::add_bias(const In* transposed, int padded, int outputs, float* bias) const {
    for (int output = 0; output < outputs; ++output) {
        Vector total = splat(0.0f);
        for (int row = 0; row < padded; row += width) total = total + P::get(transposed + size_t(output) * padded + row);
        bias[output] += sum(total);
    }
}

// Copies a tile to rows row .. row + rows - 1 of a product's right-hand side. Zeroes the tile's padding rows first.
template <class P>
void TileStack<P>::keep_columns(const In* tile, int stride, int columns, int row, int rows, Panels<P>& panels) const {
    const int end = round_up(rows, row_quantum<P>);
    if (end > rows) std::memset(const_cast<In*>(tile) + size_t(rows) * stride, 0, sizeof(In) * size_t(end - rows) * stride);
    for (int column = 0; column < columns; column += width)
        for (int i = 0; i < end; i += P::pack)
            store_integers(panels.cells(column, (row + i) / P::pack), P::join(tile + size_t(i) * stride + column, stride));
}

// Copies a tile likewise to a left-hand side, (columns, padded).
template <class P>
void TileStack<P>::keep_transposed(const In* tile, int stride, int columns, int row, int rows, int padded, In* out) const {
    const int end = round_up(rows, row_quantum<P>);
    if (end > rows) std::memset(const_cast<In*>(tile) + size_t(rows) * stride, 0, sizeof(In) * size_t(end - rows) * stride);
    for (int column = 0; column < columns; column += width)
        for (int i = 0; i < end; i += row_quantum<P>) {
            Integers block[width];
            for (int cell = 0; cell < width; ++cell)
                block[cell] = P::join(tile + size_t(i + cell * P::pack) * stride + column, stride);
            transpose(block);
            for (int lane = 0; lane < width; ++lane)
                store_integers(out + size_t(column + lane) * padded + row + i, block[lane]);
        }
}

static inline std::unique_ptr<Stack> make_stack(const StackShape& shape, Precision precision, Pool& pool) {
    if (precision == Precision::bf16) return std::make_unique<TileStack<Bf16>>(shape, pool);
    return std::make_unique<TileStack<Fp32>>(shape, pool);
}
