// SPDX-License-Identifier: Apache-2.0
// The kernels of one instruction set, in the order of the pipeline. Compiled once for each, with GS_ISA as its name.
#include "project.h"
#include "rasterize.h"
#include "loss.h"
#include "score.h"
#include "update.h"
#include "combine.h"

#define GS_STRING_(x) #x
#define GS_STRING(x) GS_STRING_(x)

namespace gs::GS_ISA {

const Kernels* kernels() {
    static const Kernels table = {GS_STRING(GS_ISA), project_range, box_spans,       forward_tile, backward_tile, loss_strip,
                                  score_row,         score_strip,   splat_gradients, update_range, combine_range, adam};
    return &table;
}

}  // namespace gs::GS_ISA
