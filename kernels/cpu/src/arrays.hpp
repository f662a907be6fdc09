// Arrays from Python: C-contiguous, on the CPU. `require` checks their sizes.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <string>

namespace {

namespace nb = nanobind;

template <class T>
using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

template <class Array>
void require(const Array& array, size_t size, const char* name) {
    if (array.size() == size) return;
    throw std::invalid_argument(std::string(name) + ": expected " + std::to_string(size) + " values, got " +
                                std::to_string(array.size()));
}

}  // namespace
