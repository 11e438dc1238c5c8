// SPDX-License-Identifier: Apache-2.0
// Logits -> integer weights, out of a table; 0 for the dead, NaN among them. limits: the logit of the dead, cells of a unit of logit,
// cells from the middle of the table to its ends.
const uint i = thread_position_in_grid.x;
if (i < uint(sizes[kN])) {
    const float logit = logits[i], reach = limits[2];
    const bool alive = logit > limits[0];
    const int place = alive ? int(rint(min(max(logit * limits[1], -reach), reach))) + int(reach) : 0;
    weights[i] = alive ? table[place] : 0u;
}
