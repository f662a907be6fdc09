#include <stdexcept>

#include "isa.hpp"

namespace sorl {

std::vector<std::string> supported_isas() {
    std::vector<std::string> isas;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (avx512 && __builtin_cpu_supports("avx512bf16")) isas.push_back("avx512_bf16");
    if (avx512) isas.push_back("avx512");
    if (avx2) isas.push_back("avx2");
#endif
    isas.push_back("portable");
    return isas;
}

std::unique_ptr<Engine> make_engine(const Policy& policy, const std::string& isa, Precision precision, int threads) {
    for (const std::string& known : supported_isas()) {
        if (known != isa) continue;
#if defined(__x86_64__)
        if (isa == "avx512_bf16") return make_avx512_bf16(policy, precision, threads);
        if (isa == "avx512") return make_avx512(policy, precision, threads);
        if (isa == "avx2") return make_avx2(policy, precision, threads);
#endif
        return make_portable(policy, precision, threads);
    }
    throw std::invalid_argument("this machine has no " + isa);
}

}  // namespace sorl
