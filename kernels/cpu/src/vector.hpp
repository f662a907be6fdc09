// Functions of vectors of any width. Each instruction set includes this inside its namespace, after its `Vector`,
// `Integers`, `width`, `splat`, `load`, `store` and `fma`.

static inline Vector select_min(Vector a, Vector b) { return a < b ? a : b; }
static inline Vector select_max(Vector a, Vector b) { return a > b ? a : b; }

// 2^y for y in [-126, 127], relative error 2e-7. With y = n + f: 2^n by the exponent's bits, 2^f by a polynomial on
// [-1/2, 1/2] (Taylor coefficients of 2^f, degree 6).
static inline Vector exp2(Vector y) {
    const Vector magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
    const Vector shifted = y + magic;
    const Vector f = y - (shifted - magic);
    Vector p = splat(1.5403530e-4f);
    p = fma(p, f, splat(1.3333558e-3f));
    p = fma(p, f, splat(9.6181291e-3f));
    p = fma(p, f, splat(5.5504109e-2f));
    p = fma(p, f, splat(2.4022651e-1f));
    p = fma(p, f, splat(6.9314718e-1f));
    p = fma(p, f, splat(1.0f));
    const Integers exponent = (Integers)shifted << 23;
    return (Vector)((Integers)p + exponent);
}

// GELU in its tanh form: x / (1 + e^(-2u)), u = sqrt(2 / pi) (x + 0.044715 x^3). NaN stays NaN.
static inline Vector gelu(Vector x) {
    constexpr float scale = -2.0f * 0.7978845608028654f * 1.4426950408889634f;
    const Vector u = x * fma(x * x, splat(scale * 0.044715f), splat(scale));
    const Vector e = exp2(select_max(select_min(u, splat(126.0f)), splat(-126.0f)));
    return x * reciprocal(splat(1.0f) + e);
}

// GELU; `slope` is set to its derivative.
static inline Vector gelu(Vector x, Vector& slope) {
    constexpr float root = 0.7978845608028654f, scale = -2.0f * root * 1.4426950408889634f;
    const Vector square = x * x;
    const Vector u = x * fma(square, splat(scale * 0.044715f), splat(scale));
    const Vector e = exp2(select_max(select_min(u, splat(126.0f)), splat(-126.0f)));
    const Vector share = reciprocal(splat(1.0f) + e), y = x * share;
    // d/dx x s(2u) = s + x s (1 - s) 2u', u' = sqrt(2 / pi) (1 + 3 * 0.044715 x^2)
    const Vector rise = fma(square, splat(6.0f * root * 0.044715f), splat(2.0f * root));
    slope = fma(y * (splat(1.0f) - share), rise, share);
    return y;
}

static inline Integers load_integers(const void* in) {
    Integers v;
    std::memcpy(&v, in, sizeof v);
    return v;
}
static inline void store_integers(void* out, Integers v) { std::memcpy(out, &v, sizeof v); }

typedef uint16_t Halves __attribute__((vector_size(2 * width)));

static inline Integers widen(const uint16_t* in) {
    Halves halves;
    std::memcpy(&halves, in, sizeof halves);
    return __builtin_convertvector(halves, Integers);
}
static inline Vector load_bf16(const uint16_t* in) { return (Vector)(widen(in) << 16); }
// Pairs of bfloat16: the low half from `low`, the high half from `high`.
static inline Integers interleave(const uint16_t* low, const uint16_t* high) { return widen(low) | (widen(high) << 16); }

// Sum of all lanes, in a fixed order.
static inline float sum(Vector v) {
    float lanes[width];
    store(lanes, v);
    for (int half = width / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    return lanes[0];
}
