// Included first by each isa_*.cpp: everything from the standard library, before any target pragma, so that no shared
// inline function is compiled for an instruction set that the machine may lack.
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

constexpr int tile_rows = 96;    // rows that one thread takes through all layers: activations stay in its L2
constexpr int helped_tile_rows = 48;  // the same where others help: what a helper without a core holds up is less
constexpr int helped_rows = 8;    // fewer rows, or fewer rows through networks than `alone_passes` (some 0.2 ms at
constexpr int alone_passes = 24;  // 4 x 512): one thread, as long as a second one takes to wake up
constexpr int block_rows = 6;    // rows of a register block
constexpr int panel_vectors = 4; // vectors of a register block's row

constexpr int learning_rows = 64;  // rows of a tile when its layers learn

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
