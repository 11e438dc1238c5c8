// SPDX-License-Identifier: Apache-2.0
// An SPZ of version 3 in base64 -> what the shaders read: positions, covariances, colours.

async function unpackSplats(base64) {
  const text = atob(base64.trim());
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const view = new DataView(bytes.buffer);
  const n = view.getUint32(8, true), degree = bytes[12], unit = 2 ** -bytes[13], flags = bytes[14];
  const coefficients = [0, 3, 8, 15][degree];
  let at = 16;
  const block = (size) => bytes.subarray(at, (at += size));
  const positions = block(9 * n), alphas = block(n), colours = block(3 * n), scales = block(3 * n);
  const rotations = block(4 * n), harmonics = block(3 * coefficients * n);

  const means = new Float32Array(3 * n);
  for (let i = 0; i < 3 * n; i++) {
    const whole = (positions[3 * i] << 8) | (positions[3 * i + 1] << 16) | (positions[3 * i + 2] << 24);
    means[i] = (whole >> 8) * unit;
  }
  // Two texels a splat: six numbers of the covariance, its opacity. One texel: the mean.
  const shapes = new Float32Array(8 * n);
  const q = new Float64Array(4);
  for (let i = 0; i < n; i++) {
    const bits = (rotations[4 * i] | (rotations[4 * i + 1] << 8) | (rotations[4 * i + 2] << 16)
      | (rotations[4 * i + 3] << 24)) >>> 0;
    const largest = bits >>> 30;
    let squares = 0, shift = 20;
    for (let c = 0; c < 4; c++) { // x y z w
      if (c === largest) continue;
      const part = (bits >>> shift) & 1023;
      q[c] = (part & 511) * (Math.SQRT1_2 / 511) * (part & 512 ? -1 : 1);
      squares += q[c] * q[c];
      shift -= 10;
    }
    q[largest] = Math.sqrt(Math.max(0, 1 - squares));
    const [x, y, z, w] = q;
    const r = [
      1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
      2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
      2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ];
    const s = [0, 1, 2].map((c) => Math.exp(2 * (scales[3 * i + c] / 16 - 10)));
    const entry = (a, b) => r[3 * a] * s[0] * r[3 * b] + r[3 * a + 1] * s[1] * r[3 * b + 1]
      + r[3 * a + 2] * s[2] * r[3 * b + 2];
    shapes.set([entry(0, 0), entry(0, 1), entry(0, 2), entry(1, 1), entry(1, 2), entry(2, 2), alphas[i] / 255, 0],
      8 * i);
  }
  // Three texels of four 32-bit words a splat: 3 bytes of the constant colour, then 45 of harmonics (128 is 0).
  const colourBytes = new Uint8Array(48 * n).fill(128);
  for (let i = 0; i < n; i++) {
    colourBytes.set(colours.subarray(3 * i, 3 * i + 3), 48 * i);
    colourBytes.set(harmonics.subarray(3 * coefficients * i, 3 * coefficients * (i + 1)), 48 * i + 3);
  }
  return { n, degree, antialiased: (flags & 1) === 1, means, shapes, colours: colourBytes };
}
