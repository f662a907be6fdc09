// Each isa_*.cpp includes this first. It includes all standard headers before any target pragma: otherwise a shared
// inline function could be compiled for an instruction set that the machine lacks.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "engine.hpp"
#include "philox.hpp"
#include "learning.hpp"
#include "team.hpp"

namespace sorl {

constexpr int tile_rows = 96;    // the most rows of a tile without helpers: its activations stay in the core's L2
constexpr int helped_tile_rows = 48;  // the same with helpers: a helper that loses its core then delays less work
// A batch uses helpers from this many rows and from this many row passes through a network. Fewer passes (some 0.2 ms
// at 4 x 512) take one thread no longer than waking a second.
constexpr int helped_rows = 8;
constexpr int alone_passes = 24;
constexpr int block_rows = 6;    // rows of a register block
constexpr int panel_vectors = 4; // vectors in a row of a register block

constexpr int learning_rows = 64;  // the most rows of a tile in training passes

std::unique_ptr<Engine> make_portable(const Policy&, Precision, int threads);
std::unique_ptr<Engine> make_avx2(const Policy&, Precision, int threads);
std::unique_ptr<Engine> make_avx512(const Policy&, Precision, int threads);
std::unique_ptr<Engine> make_avx512_bf16(const Policy&, Precision, int threads);

Updates make_updates_portable();
Updates make_updates_avx2();
Updates make_updates_avx512();
Updates make_updates_avx512_bf16();

std::unique_ptr<Stack> make_stack_portable(const StackShape&, Precision, Pool&);
std::unique_ptr<Stack> make_stack_avx2(const StackShape&, Precision, Pool&);
std::unique_ptr<Stack> make_stack_avx512(const StackShape&, Precision, Pool&);
std::unique_ptr<Stack> make_stack_avx512_bf16(const StackShape&, Precision, Pool&);

}  // namespace sorl
