#include <algorithm>
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

Precision precision_of(const std::string& name) {
    if (name == "fp32") return Precision::fp32;
    if (name == "bf16") return Precision::bf16;
    throw std::invalid_argument("precision: expected fp32 or bf16");
}

namespace {

enum class Isa { avx512_bf16, avx512, avx2, portable };

// The instruction set called `name`. Throws std::invalid_argument if this machine lacks it.
Isa find(const std::string& name) {
    const std::vector<std::string> known = supported_isas();
    if (std::find(known.begin(), known.end(), name) == known.end())
        throw std::invalid_argument("this machine has no " + name);
    return name == "avx512_bf16" ? Isa::avx512_bf16
           : name == "avx512"    ? Isa::avx512
           : name == "avx2"      ? Isa::avx2
                                 : Isa::portable;
}

}  // namespace

std::unique_ptr<Engine> make_engine(const Policy& policy, const std::string& isa, Precision precision, int threads) {
    switch (find(isa)) {
#if defined(__x86_64__)
        case Isa::avx512_bf16: return make_avx512_bf16(policy, precision, threads);
        case Isa::avx512: return make_avx512(policy, precision, threads);
        case Isa::avx2: return make_avx2(policy, precision, threads);
#endif
        default: return make_portable(policy, precision, threads);
    }
}

std::unique_ptr<Stack> make_stack(const StackShape& shape, const std::string& isa, Precision precision, Pool& pool) {
    switch (find(isa)) {
#if defined(__x86_64__)
        case Isa::avx512_bf16: return make_stack_avx512_bf16(shape, precision, pool);
        case Isa::avx512: return make_stack_avx512(shape, precision, pool);
        case Isa::avx2: return make_stack_avx2(shape, precision, pool);
#endif
        default: return make_stack_portable(shape, precision, pool);
    }
}

Updates make_updates(const std::string& isa) {
    switch (find(isa)) {
#if defined(__x86_64__)
        case Isa::avx512_bf16: return make_updates_avx512_bf16();
        case Isa::avx512: return make_updates_avx512();
        case Isa::avx2: return make_updates_avx2();
#endif
        default: return make_updates_portable();
    }
}

}  // namespace sorl
