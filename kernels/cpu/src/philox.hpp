// Normal noise from Philox4x32-10, as kernels/philox.py defines it.
#pragma once

#include <cmath>
#include <cstdint>

namespace sorl {

struct Words {
    uint32_t w[4];
};

inline Words philox4x32(uint64_t seed, uint32_t candidate, uint32_t block) {
    uint32_t c0 = candidate, c1 = block, c2 = 0, c3 = 0;
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
        c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
        c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c1 = static_cast<uint32_t>(p1);
        c3 = static_cast<uint32_t>(p0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// z[0..dims) of one candidate: Box-Muller in double, rounded once, as in the reference.
inline void standard_normals(uint64_t seed, uint32_t candidate, int dims, float* z) {
    constexpr double two_pi = 6.283185307179586476925;
    for (int block = 0; 4 * block < dims; ++block) {
        const Words words = philox4x32(seed, candidate, static_cast<uint32_t>(block));
        for (int pair = 0; pair < 2; ++pair) {
            const int dim = 4 * block + 2 * pair;
            if (dim >= dims) break;
            const double u = ((words.w[2 * pair] >> 8) + 1) / 16777216.0;
            const double angle = (words.w[2 * pair + 1] >> 8) * (two_pi / 16777216.0);
            const double radius = std::sqrt(-2.0 * std::log(u));
            z[dim] = static_cast<float>(radius * std::cos(angle));
            if (dim + 1 < dims) z[dim + 1] = static_cast<float>(radius * std::sin(angle));
        }
    }
}

}  // namespace sorl
