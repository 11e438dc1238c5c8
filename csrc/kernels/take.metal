// SPDX-License-Identifier: Apache-2.0
// Rows of an array of 32-bit words: row i of the result is row rows[i]. Threads write words that lie side by side.
const uint e = thread_position_in_grid.x, width = uint(sizes[kParts]);
if (e < width * uint(sizes[kN])) taken[e] = words[width * uint(rows[e / width]) + e % width];
