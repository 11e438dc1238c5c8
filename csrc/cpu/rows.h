// SPDX-License-Identifier: Apache-2.0
// Rows of the state's arrays, moved between two steps.
#pragma once
#include <cstdint>
#include <vector>

namespace gs {

struct Rows {
    float* data;
    long count, width;  // rows, and floats of one
};

// Row to[i] becomes row from[i], in every array; no row is named in both. Indices lie within all arrays.
void copy_rows(const std::vector<Rows>& arrays, const int32_t* to, const int32_t* from, long count);
// The rows become zero; one may be named twice.
void clear_rows(const std::vector<Rows>& arrays, const int32_t* rows, long count);
// The memory of what lies behind row `first` goes back to the system until somebody writes there; its content is lost.
void give_back(const Rows& array, long first);

}  // namespace gs
