// bfloat16 products for machines without them: a pair of inputs is widened and multiplied in float32, low half first.
typedef Integers Pairs;

static inline Pairs splat_pair(int32_t pair) { return Pairs{} + pair; }
static inline Pairs load_pairs(const uint16_t* in) {
    Pairs pairs;
    std::memcpy(&pairs, in, sizeof pairs);
    return pairs;
}
static inline Vector low_half(Pairs pairs) { return (Vector)(pairs << 16); }
static inline Vector high_half(Pairs pairs) { return (Vector)(pairs & static_cast<int>(0xFFFF0000u)); }
static inline Vector dot_pairs(Vector acc, Pairs a, Pairs b) {
    return fma(high_half(a), high_half(b), fma(low_half(a), low_half(b), acc));
}
static inline void store_bf16(uint16_t* out, Vector v) {
    float lanes[width];
    store(lanes, v);
    for (int lane = 0; lane < width; ++lane) {
        uint32_t bits;
        std::memcpy(&bits, &lanes[lane], 4);
        const bool nan = lanes[lane] != lanes[lane];
        out[lane] = nan ? 0x7FC0 : static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }
}
// Two vectors rounded to bfloat16: those of `low`, then those of `high`.
static inline Integers round_pairs(Vector low, Vector high) {
    uint16_t pairs[2 * width];
    store_bf16(pairs, low);
    store_bf16(pairs + width, high);
    return load_integers(pairs);
}
