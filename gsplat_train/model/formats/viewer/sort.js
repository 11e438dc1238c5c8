// SPDX-License-Identifier: Apache-2.0
// The order in which splats are drawn: farthest first. Runs in a worker where there are workers.

// Keys are the bits of the depth as float32, which order positive numbers; radix sort, two digits of 13 bits.
function makeSorter(means) {
  const n = means.length / 3, BASE = 8192;
  const depths = new Float32Array(n), bits = new Uint32Array(depths.buffer);
  const once = new Uint32Array(n), counts = new Uint32Array(2 * BASE);
  return function sort(row) { // camera z = row . (x, y, z, 1)
    const [a, b, c, d] = row;
    counts.fill(0);
    let seen = 0;
    const visible = new Uint32Array(n);
    for (let i = 0; i < n; i++) {
      const z = a * means[3 * i] + b * means[3 * i + 1] + c * means[3 * i + 2] + d;
      if (!(z > 0.01)) continue;
      depths[i] = z;
      const key = ~(bits[i] >>> 5) & 0x3ffffff; // inverted: farthest first
      bits[i] = key;
      counts[key & 8191]++;
      counts[BASE + (key >>> 13)]++;
      visible[seen++] = i;
    }
    for (let digit = 0; digit < 2; digit++) {
      let sum = 0;
      for (let i = digit * BASE; i < (digit + 1) * BASE; i++) [counts[i], sum] = [sum, sum + counts[i]];
    }
    for (let i = 0; i < seen; i++) once[counts[bits[visible[i]] & 8191]++] = visible[i];
    for (let i = 0; i < seen; i++) visible[counts[BASE + (bits[once[i]] >>> 13)]++] = once[i];
    return visible.subarray(0, seen);
  };
}

// Calls `done(order)` for the newest of the rows that were asked for; one at a time.
function startSorting(means, done) {
  const code = `"use strict";${makeSorter}
let sort;
onmessage = ({ data }) => {
  if (data.means) sort = makeSorter(data.means);
  else { const order = sort(data.row).slice(); postMessage(order, [order.buffer]); }
};`;
  let busy = false, waiting = null, ask;
  const finish = (order) => {
    busy = false;
    done(order);
    if (waiting) { const row = waiting; waiting = null; request(row); }
  };
  try {
    const worker = new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
    worker.onmessage = ({ data }) => finish(data);
    worker.postMessage({ means });
    ask = (row) => worker.postMessage({ row });
  } catch {
    const sort = makeSorter(means);
    ask = (row) => setTimeout(() => finish(sort(row)));
  }
  function request(row) {
    if (busy) { waiting = row; return; }
    busy = true;
    ask(row);
  }
  return request;
}
