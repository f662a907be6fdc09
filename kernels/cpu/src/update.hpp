// Optimiser updates of a contiguous array. They are bound by memory, so each number is read and written once.
//
// Each isa_*.cpp includes this once, inside its own namespace, after its vector functions.

static inline Vector root(Vector v) {
    float lanes[width];
    store(lanes, v);
    for (int lane = 0; lane < width; ++lane) lanes[lane] = std::sqrt(lanes[lane]);
    return load(lanes);
}

// Calls of(pointers) for each whole vector of `count` numbers, then once for the rest, in padded copies.
template <int arrays, class Of>
static inline void over_vectors(float* const (&at)[arrays], size_t count, const Of& of) {
    size_t i = 0;
    for (; i + width <= count; i += width) {
        float* here[arrays];
        for (int a = 0; a < arrays; ++a) here[a] = at[a] + i;
        of(here);
    }
    if (i == count) return;
    float copies[arrays][width] = {};
    float* here[arrays];
    for (int a = 0; a < arrays; ++a) {
        here[a] = copies[a];
        std::memcpy(copies[a], at[a] + i, sizeof(float) * (count - i));
    }
    of(here);
    for (int a = 0; a < arrays; ++a) std::memcpy(at[a] + i, copies[a], sizeof(float) * (count - i));
}

// An Adam step (Kingma and Ba, algorithm 1, eps outside the root) with gradients times `scale`. Sets gradients to zero.
static void adam(float* parameter, float* gradient, float* mean, float* square, size_t count, const AdamStep& s) {
    float* const arrays[] = {parameter, gradient, mean, square};
    over_vectors(arrays, count, [&](float* const (&at)[4]) {
        const Vector g = load(at[1]) * splat(s.scale);
        const Vector m = fma(g - load(at[2]), splat(1.0f - s.beta1), load(at[2]));
        const Vector v = fma(g * g, splat(1.0f - s.beta2), load(at[3]) * splat(s.beta2));
        const Vector spread = root(v) / splat(s.root_correction2) + splat(s.epsilon);
        store(at[0], load(at[0]) - splat(s.learning_rate / s.correction1) * m / spread);
        store(at[1], splat(0.0f));
        store(at[2], m);
        store(at[3], v);
    });
}

// target <- (1 - tau) target + tau online.
static void move_average(float* target, const float* online, size_t count, float tau) {
    float* const arrays[] = {target, const_cast<float*>(online)};
    over_vectors(arrays, count, [&](float* const (&at)[2]) {
        const Vector kept = load(at[0]) * splat(1.0f - tau);  // rounded here, as in the released code
        store(at[0], fma(load(at[1]), splat(tau), kept));
    });
}

static double sum_of_squares(const float* numbers, size_t count) {
    double total = 0.0;
    for (size_t begin = 0; begin < count; begin += 4096) {
        float* const arrays[] = {const_cast<float*>(numbers) + begin};
        Vector squares = splat(0.0f);
        over_vectors(arrays, std::min(count - begin, size_t(4096)), [&](float* const (&at)[1]) {
            squares = fma(load(at[0]), load(at[0]), squares);
        });
        total += sum(squares);
    }
    return total;
}

static inline Updates make_updates() { return {adam, move_average, sum_of_squares}; }
