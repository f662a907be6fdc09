// rows[i][j] <-> rows[j][i], through memory, for instruction sets without a version in registers.
static inline void transpose(Integers rows[width]) {
    int32_t in[width][width], out[width][width];
    std::memcpy(in, rows, sizeof in);
    for (int i = 0; i < width; ++i)
        for (int j = 0; j < width; ++j) out[j][i] = in[i][j];
    std::memcpy(rows, out, sizeof out);
}
