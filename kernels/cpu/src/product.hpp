// Matrix products for one instruction set, in fp32 or bf16. The right-hand side is packed into panels. Every element of
// a result is one accumulator that adds its inputs in ascending order.
//
// Each isa_*.cpp includes this once, inside its own namespace, after its vector functions.

template <class T>
struct Aligned {
    explicit Aligned(size_t count = 0) : size(count) {
        if (count == 0) return;
        data = static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64));
        if (data == nullptr) throw std::bad_alloc();
        std::memset(static_cast<void*>(data), 0, count * sizeof(T));
    }
    ~Aligned() { std::free(data); }
    Aligned(Aligned&& other) noexcept { *this = std::move(other); }
    Aligned& operator=(Aligned&& other) noexcept {
        std::swap(data, other.data);
        std::swap(size, other.size);
        return *this;
    }
    Aligned(const Aligned&) = delete;

    T* data = nullptr;
    size_t size = 0;
};

static inline int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// A mask for the last vector of `size` numbers: 1 in its lanes, 0 in padding.
static inline Vector inside(int size) {
    float lanes[width];
    for (int lane = 0; lane < width; ++lane) lanes[lane] = round_up(size, width) - width + lane < size ? 1.0f : 0.0f;
    return load(lanes);
}

struct Fp32 {
    using In = float;
    static constexpr int pack = 1;  // inputs per multiply
    static constexpr const char* name = "fp32";
    using Factor = Vector;
    static inline Factor broadcast(const In* a) { return splat(*a); }
    static inline Factor panel(const In* b) { return load(b); }
    static inline Vector multiply(Vector acc, Factor a, Factor b) { return fma(a, b, acc); }
    static inline void put(In* out, Vector v) { store(out, v); }
    static inline Vector get(const In* in) { return load(in); }
    // A cell is what one multiply takes of an operand: here one number. This makes `width` cells from a row's numbers.
    static inline Integers cells(const float* row) { return load_integers(row); }
    // Makes the cells of `width` columns from `pack` consecutive rows: here from one.
    static inline Integers join(const In* row, int) { return load_integers(row); }
    static inline Integers join_floats(const float* row, int) { return load_integers(row); }
};

struct Bf16 {
    using In = uint16_t;
    static constexpr int pack = 2;
    static constexpr const char* name = "bf16";
    using Factor = Pairs;
    static inline Factor broadcast(const In* a) {
        int32_t pair;
        std::memcpy(&pair, a, 4);
        return splat_pair(pair);
    }
    static inline Factor panel(const In* b) { return load_pairs(b); }
    static inline Vector multiply(Vector acc, Factor a, Factor b) { return dot_pairs(acc, a, b); }
    static inline void put(In* out, Vector v) { store_bf16(out, v); }
    static inline Vector get(const In* in) { return load_bf16(in); }
    // Makes `width` cells, here pairs, from 2 * width numbers of a row.
    static inline Integers cells(const float* row) { return round_pairs(load(row), load(row + width)); }
    // Makes the cells of `width` columns from a row and the next.
    static inline Integers join(const In* row, int stride) { return interleave(row, row + stride); }
    static inline Integers join_floats(const float* row, int stride) {
        In rows[2][width];
        store_bf16(rows[0], load(row));
        store_bf16(rows[1], load(row + stride));
        return interleave(rows[0], rows[1]);
    }
};

// The right-hand side of a product, stored as [panel][input / pack][output][pack]. A panel has up to `panel_vectors` *
// width outputs, zero-padded. Each group of rows reads it once, from front to back.
template <class P>
struct Panels {
    Panels(int outputs_in, int inputs_in)
        : outputs(round_up(outputs_in, width)), inputs(inputs_in), weights(size_t(outputs) * inputs_in) {}

    int panels() const { return (outputs + panel_vectors * width - 1) / (panel_vectors * width); }
    int columns(int panel) const { return std::min(panel_vectors * width, outputs - panel * panel_vectors * width); }
    typename P::In* panel(int number) const { return weights.data + size_t(number) * panel_vectors * width * inputs; }

    // The cells of `width` outputs from `column` (a multiple of width) on, at the inputs from `cell` * pack on.
    int32_t* cells(int column, int cell) const {
        const int number = column / (panel_vectors * width);
        typename P::In* row = panel(number) + size_t(cell) * columns(number) * P::pack;
        return reinterpret_cast<int32_t*>(row) + column % (panel_vectors * width);
    }

    // Fill from a matrix (output, input), the layout of a layer's weights. Each of `team` threads fills a part.
    void fill_transposed(const float* matrix, int stride, int outputs_in, int inputs_in, int rank = 0, int team = 1) {
        const int vectors = outputs / width, depth = width * P::pack;
        for (int column = vectors * rank / team * width; column < vectors * (rank + 1) / team * width; column += width)
            for (int input = 0; input < inputs; input += depth) {
                Integers block[width];
                for (int row = 0; row < width; ++row) {
                    const int valid = column + row < outputs_in ? std::min(inputs_in - input, depth) : 0;
                    const float* from = matrix + size_t(column + row) * stride + input;
                    if (valid == depth) {
                        block[row] = P::cells(from);
                        continue;
                    }
                    float padded[width * P::pack] = {};
                    if (valid > 0) std::memcpy(padded, from, sizeof(float) * valid);
                    block[row] = P::cells(padded);
                }
                transpose(block);
                for (int cell = 0; cell < width && input + cell * P::pack < inputs; ++cell)
                    store_integers(cells(column, input / P::pack + cell), block[cell]);
            }
    }

    // Fill from a matrix (input, output).
    void fill(const float* matrix, int stride, int outputs_in, int inputs_in, int rank = 0, int team = 1) {
        const int vectors = outputs / width;
        for (int column = vectors * rank / team * width; column < vectors * (rank + 1) / team * width; column += width)
            for (int input = 0; input < inputs; input += P::pack) {
                const int valid = std::min(outputs_in - column, width), rows = std::min(inputs_in - input, P::pack);
                const float* from = matrix + size_t(input) * stride + column;
                int32_t* to = cells(column, input / P::pack);
                if (valid == width && rows == P::pack) {
                    store_integers(to, P::join_floats(from, stride));
                    continue;
                }
                float padded[P::pack][width] = {};
                for (int row = 0; row < rows; ++row)
                    std::memcpy(padded[row], from + size_t(row) * stride, sizeof(float) * valid);
                store_integers(to, P::join_floats(padded[0], width));
            }
    }

    int outputs, inputs;  // padded
    Aligned<typename P::In> weights;
};

// A dense layer: weights (out, in) packed as panels, and its bias.
template <class P>
struct Layer {
    Layer(const float* weight, const float* bias_in, int outputs_in, int inputs_in, int stride, int padded_inputs)
        : panels(outputs_in, padded_inputs), bias(size_t(panels.outputs)) {
        panels.fill_transposed(weight, stride, outputs_in, inputs_in);
        if (bias_in != nullptr) std::memcpy(bias.data, bias_in, sizeof(float) * outputs_in);
    }

    Panels<P> panels;
    Aligned<float> bias;
};

// What is done with each result vector of a product.
struct Store {  // store it in float32
    float* out;
    int stride;
    inline void operator()(int row, int column, Vector v) const { store(out + size_t(row) * stride + column, v); }
};

struct StoreGelu {  // GELU, in float32 for LayerNorm
    float* out;
    int stride;
    inline void operator()(int row, int column, Vector v) const { store(out + size_t(row) * stride + column, gelu(v)); }
};

template <class P>
struct StoreActivated {  // no GELU (already applied), as the next layer's input
    typename P::In* out;
    int stride;
    inline void operator()(int row, int column, Vector v) const { P::put(out + size_t(row) * stride + column, v); }
};

template <class P>
struct StoreInput {  // GELU, as the next layer's input
    typename P::In* out;
    int stride;
    inline void operator()(int row, int column, Vector v) const { P::put(out + size_t(row) * stride + column, gelu(v)); }
};

// Initial values of a product's accumulators: a row for each row of the result, or one for all (stride 0).
struct Start {
    const float* rows;
    int stride;
};

// out (rows, vectors * width) = start + a . b, accumulated in registers.
template <class P, int rows, int vectors>
static void multiply_block(const typename P::In* a, int lda, const typename P::In* b, const float* start,
                           int start_stride, int inputs, float* out) {
    Vector acc[rows][vectors];
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) acc[r][v] = load(start + size_t(r) * start_stride + v * width);
    for (int k = 0; k < inputs; k += P::pack) {
        typename P::Factor right[vectors];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) right[v] = P::panel(b + v * width * P::pack);
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) {
            const typename P::Factor left = P::broadcast(a + size_t(r) * lda + k);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v) acc[r][v] = P::multiply(acc[r][v], left, right[v]);
        }
        b += vectors * width * P::pack;
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) store(out + (r * vectors + v) * width, acc[r][v]);
}

template <class P, int vectors>
static void multiply_rows(int rows, const typename P::In* a, int lda, const typename P::In* b, const float* start,
                          int start_stride, int inputs, float* out) {
    switch (rows) {
        case 1: return multiply_block<P, 1, vectors>(a, lda, b, start, start_stride, inputs, out);
        case 2: return multiply_block<P, 2, vectors>(a, lda, b, start, start_stride, inputs, out);
        case 3: return multiply_block<P, 3, vectors>(a, lda, b, start, start_stride, inputs, out);
        case 4: return multiply_block<P, 4, vectors>(a, lda, b, start, start_stride, inputs, out);
        case 5: return multiply_block<P, 5, vectors>(a, lda, b, start, start_stride, inputs, out);
        default: return multiply_block<P, 6, vectors>(a, lda, b, start, start_stride, inputs, out);
    }
}

// Calls finish(row, column, start + a . b) for rows 0 .. count - 1 and one panel of b. Blocks go through memory (L1) to
// `finish`. With `finish` inlined on registers, the code was 3 times as large and no faster.
template <class P, class Finish>
static void multiply_panel(const Panels<P>& b, int panel, const typename P::In* a, int lda, int count, Start start,
                           const Finish& finish) {
    const int groups = (count + block_rows - 1) / block_rows, column = panel * panel_vectors * width;
    const int vectors = b.columns(panel) / width;
    const typename P::In* weights = b.panel(panel);
    alignas(64) float block[block_rows * panel_vectors * width];
    for (int group = 0; group < groups; ++group) {
        const int row = count * group / groups, rows = count * (group + 1) / groups - row;
        const typename P::In* left = a + size_t(row) * lda;
        const float* from = start.rows + size_t(row) * start.stride + column;
        switch (vectors) {
            case 1: multiply_rows<P, 1>(rows, left, lda, weights, from, start.stride, b.inputs, block); break;
            case 2: multiply_rows<P, 2>(rows, left, lda, weights, from, start.stride, b.inputs, block); break;
            case 3: multiply_rows<P, 3>(rows, left, lda, weights, from, start.stride, b.inputs, block); break;
            default: multiply_rows<P, 4>(rows, left, lda, weights, from, start.stride, b.inputs, block);
        }
        for (int r = 0; r < rows; ++r)
            for (int v = 0; v < vectors; ++v)
                finish(row + r, column + v * width, load(block + (r * vectors + v) * width));
    }
}

// Calls `multiply_panel` for all panels.
template <class P, class Finish>
static void multiply(const Panels<P>& b, const typename P::In* a, int lda, int count, Start start,
                     const Finish& finish) {
    if (count == 0) return;
    for (int panel = 0; panel < b.panels(); ++panel)
        multiply_panel(b, panel, a, lda, count, start, finish);
}

// Calls finish(row, column, a . w^T + bias) for all results of a layer.
template <class P, class Finish>
static void product(const Layer<P>& layer, const typename P::In* a, int lda, int count, const Finish& finish) {
    multiply(layer.panels, a, lda, count, Start{layer.bias.data, 0}, finish);
}
