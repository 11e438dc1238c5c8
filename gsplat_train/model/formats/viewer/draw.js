// SPDX-License-Identifier: Apache-2.0
// Drawing with WebGL2: a rectangle for each splat, farthest first, blended in half floats, then put on the canvas.
// The mathematics and every threshold are those of gsplat_train's renderer (csrc/constants.h).

const TEXELS = 4096; // a texture's width; splats lie in it one after another

const VERTEX = `#version 300 es
precision highp float;
precision highp int;
precision highp usampler2D;
uniform sampler2D means, shapes;
uniform usampler2D colours;
uniform mat3 turn;      // world -> camera: x right, y down, z forward
uniform vec3 shift, viewpoint;
uniform vec2 focal, size;
uniform int degree;
uniform bool antialiased;
in uint splat;
out vec2 place;
flat out vec4 tint;

ivec2 texel(uint i) { return ivec2(i % ${TEXELS}u, i / ${TEXELS}u); }

uvec4 words[3];
float part(int i) {  // byte i of this splat's colours
  return float((words[i / 16][(i / 4) % 4] >> uint(8 * (i % 4))) & 255u);
}
vec3 harmonic(int i) {
  return (vec3(part(3 * i), part(3 * i + 1), part(3 * i + 2)) - 128.0) / 128.0;
}

vec3 colour(vec3 d) {
  for (int i = 0; i < 3; i++) words[i] = texelFetch(colours, texel(3u * splat + uint(i)), 0);
  vec3 sum = 0.5 + 0.28209479 * (vec3(part(0), part(1), part(2)) - 127.5) / 38.25;
  float x = d.x, y = d.y, z = d.z, xx = x * x, yy = y * y, zz = z * z;
  if (degree > 0) sum += 0.48860251 * (-y * harmonic(1) + z * harmonic(2) - x * harmonic(3));
  if (degree > 1) sum += 1.09254843 * (x * y * harmonic(4) - y * z * harmonic(5) - x * z * harmonic(7))
    + 0.31539157 * (2.0 * zz - xx - yy) * harmonic(6) + 0.54627422 * (xx - yy) * harmonic(8);
  if (degree > 2) sum += -0.59004359 * (y * (3.0 * xx - yy) * harmonic(9) + x * (xx - 3.0 * yy) * harmonic(15))
    + 2.89061144 * x * y * z * harmonic(10) + 1.44530572 * z * (xx - yy) * harmonic(14)
    - 0.45704580 * (4.0 * zz - xx - yy) * (y * harmonic(11) + x * harmonic(13))
    + 0.37317633 * z * (2.0 * zz - 3.0 * xx - 3.0 * yy) * harmonic(12);
  return max(sum, 0.0);
}

void main() {
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0);  // behind the far plane: not drawn
  vec3 mean = texelFetch(means, texel(splat), 0).xyz;
  vec4 a = texelFetch(shapes, texel(2u * splat), 0), b = texelFetch(shapes, texel(2u * splat + 1u), 0);
  vec3 p = turn * mean + shift;
  if (p.z <= 0.01) return;
  vec2 edge = 0.65 * size / focal;  // half the picture and 0.3 halves more
  vec2 t = clamp(p.xy / p.z, -edge, edge);
  mat3 cloud = turn * mat3(a.x, a.y, a.z, a.y, a.w, b.x, a.z, b.x, b.y) * transpose(turn);
  vec3 jx = vec3(focal.x, 0.0, -focal.x * t.x) / p.z, jy = vec3(0.0, focal.y, -focal.y * t.y) / p.z;
  float xx = dot(jx, cloud * jx), xy = dot(jx, cloud * jy), yy = dot(jy, cloud * jy);
  float before = max(xx * yy - xy * xy, 0.0);
  xx += 0.3;
  yy += 0.3;
  float opacity = b.z * (antialiased ? sqrt(before / (xx * yy - xy * xy)) : 1.0);
  if (opacity * 255.0 <= 1.0) return;
  float reach = min(sqrt(2.0 * log(opacity * 255.0)), 3.33);
  // Axes of the ellipse.
  float middle = 0.5 * (xx + yy), apart = length(vec2(0.5 * (xx - yy), xy));
  float long_ = middle + apart, short_ = max(middle - apart, 1e-6);
  vec2 along = abs(xy) > 1e-6 * middle ? normalize(vec2(xy, long_ - xx))
    : xx >= yy ? vec2(1.0, 0.0) : vec2(0.0, 1.0);
  vec2 corner = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2.0 - 1.0;
  place = reach * corner;
  vec2 pixels = along * sqrt(long_) * place.x + vec2(-along.y, along.x) * sqrt(short_) * place.y;
  vec2 centre = focal * p.xy / p.z;
  if (any(greaterThan(abs(centre) - reach * sqrt(long_), 0.5 * size))) return;
  tint = vec4(colour(normalize(mean - viewpoint)), opacity);
  gl_Position = vec4((centre + pixels) / (0.5 * size) * vec2(1.0, -1.0), 0.0, 1.0);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
in vec2 place;
flat in vec4 tint;
out vec4 pixel;
void main() {
  float alpha = min(tint.a * exp(-0.5 * dot(place, place)), 0.999);
  if (alpha < 1.0 / 255.0) discard;
  pixel = vec4(tint.rgb * alpha, alpha);
}`;

const COPY_VERTEX = `#version 300 es
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0); }`;

const COPY_FRAGMENT = `#version 300 es
precision highp float;
uniform sampler2D drawn;
uniform vec2 scale;
out vec4 pixel;
void main() { pixel = vec4(texture(drawn, gl_FragCoord.xy * scale).rgb, 1.0); }`;

function makeRenderer(canvas, splats) {
  const gl = canvas.getContext("webgl2", { antialias: false, alpha: false, preserveDrawingBuffer: true });
  if (!gl) throw new Error("This browser has no WebGL2, or it is switched off.");
  const halfFloats = gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float");

  const program = (vertex, fragment) => {
    const made = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(made, shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) {
        throw new Error(gl.getShaderInfoLog(shader));
      }
    }
    gl.linkProgram(made);
    const where = (name) => gl.getUniformLocation(made, name);
    return { made, where };
  };
  const splatting = program(VERTEX, FRAGMENT), copying = program(COPY_VERTEX, COPY_FRAGMENT);

  let unit = 0;
  const table = (name, format, kind, layout, values, perTexel) => {
    const rows = Math.ceil(values.length / perTexel / TEXELS);
    if (rows > gl.getParameter(gl.MAX_TEXTURE_SIZE)) throw new Error("More splats than this graphics card can show.");
    const padded = new values.constructor(rows * TEXELS * perTexel);
    padded.set(values);
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.texImage2D(gl.TEXTURE_2D, 0, format, TEXELS, rows, 0, layout, kind, padded);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.useProgram(splatting.made);
    gl.uniform1i(splatting.where(name), unit++);
  };
  table("means", gl.RGB32F, gl.FLOAT, gl.RGB, splats.means, 3);
  table("shapes", gl.RGBA32F, gl.FLOAT, gl.RGBA, splats.shapes, 4);
  table("colours", gl.RGBA32UI, gl.UNSIGNED_INT, gl.RGBA_INTEGER, new Uint32Array(splats.colours.buffer), 4);
  gl.uniform1i(splatting.where("degree"), splats.degree);
  gl.uniform1i(splatting.where("antialiased"), splats.antialiased);

  const order = gl.createBuffer(), attribute = gl.getAttribLocation(splatting.made, "splat");
  gl.bindBuffer(gl.ARRAY_BUFFER, order);
  gl.enableVertexAttribArray(attribute);
  gl.vertexAttribIPointer(attribute, 1, gl.UNSIGNED_INT, 0, 0);
  gl.vertexAttribDivisor(attribute, 1);
  let count = 0;

  const target = gl.createFramebuffer(), picture = gl.createTexture();
  gl.activeTexture(gl.TEXTURE0 + unit);
  gl.bindTexture(gl.TEXTURE_2D, picture);
  gl.useProgram(copying.made);
  gl.uniform1i(copying.where("drawn"), unit);
  let drawnWidth = 0, drawnHeight = 0;
  const fit = (width, height) => {
    if (width === drawnWidth && height === drawnHeight) return;
    [drawnWidth, drawnHeight] = [width, height];
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA16F, width, height, 0, gl.RGBA, gl.HALF_FLOAT, null);
    for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, side, gl.LINEAR);
    for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
    gl.bindFramebuffer(gl.FRAMEBUFFER, target);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, picture, 0);
  };

  return {
    setOrder(indices) {
      gl.bindBuffer(gl.ARRAY_BUFFER, order);
      gl.bufferData(gl.ARRAY_BUFFER, indices, gl.DYNAMIC_DRAW);
      count = indices.length;
    },
    // camera: rotation (9 numbers, rows right, down, forward), position; focal in pixels of the canvas; a share of
    // its resolution.
    draw(camera, focal, background, share) {
      const r = camera.rotation, p = camera.position;
      const width = halfFloats ? Math.max(1, Math.round(canvas.width * share)) : canvas.width;
      const height = halfFloats ? Math.max(1, Math.round(canvas.height * share)) : canvas.height;
      if (halfFloats) fit(width, height);
      gl.bindFramebuffer(gl.FRAMEBUFFER, halfFloats ? target : null);
      gl.viewport(0, 0, width, height);
      gl.clearColor(...background, 1);
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.enable(gl.BLEND);
      gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
      gl.useProgram(splatting.made);
      gl.uniformMatrix3fv(splatting.where("turn"), true, r);
      gl.uniform3f(splatting.where("shift"), ...[0, 3, 6].map((i) => -(r[i] * p[0] + r[i + 1] * p[1] + r[i + 2] * p[2])));
      gl.uniform3f(splatting.where("viewpoint"), ...p);
      gl.uniform2f(splatting.where("focal"), focal * width / canvas.width, focal * height / canvas.height);
      gl.uniform2f(splatting.where("size"), width, height);
      gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, count);
      if (!halfFloats) return;
      gl.bindFramebuffer(gl.FRAMEBUFFER, null);
      gl.viewport(0, 0, canvas.width, canvas.height);
      gl.disable(gl.BLEND);
      gl.useProgram(copying.made);
      gl.uniform2f(copying.where("scale"), 1 / canvas.width, 1 / canvas.height);
      gl.drawArrays(gl.TRIANGLES, 0, 3);
    },
    finish() { gl.finish(); },
  };
}
