// SPDX-License-Identifier: Apache-2.0
// An array of 32-bit words with other values in some rows: those of row rows[j], which rise, are row order[j] of `values`. A thread is
// a word, and looks for its row: so nothing is written twice.
const uint e = thread_position_in_grid.x, width = uint(sizes[kParts]), n = uint(sizes[kN]);
if (e < width * uint(sizes[kBefore])) {
    const int row = int(e / width);
    uint low = 0;
    for (uint high = n; low < high;) {
        const uint middle = (low + high) / 2;
        if (rows[middle] < row) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    const bool here = low < n && rows[low] == row;
    new_words[e] = here ? values[width * uint(order[low]) + e % width] : words[e];
}
