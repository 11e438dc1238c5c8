// SPDX-License-Identifier: Apache-2.0
// The camera and the hands on it. A camera is { rotation: rows right, down, forward in the world; position }.

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const scaled = (a, s) => [a[0] * s, a[1] * s, a[2] * s];
const sum = (a, b) => [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
const unit = (a) => scaled(a, 1 / (Math.hypot(...a) || 1));
const row = (m, i) => m.slice(3 * i, 3 * i + 3);

// Vector v turned about a unit axis (Rodrigues).
function turned(v, axis, angle) {
  const c = Math.cos(angle), s = Math.sin(angle);
  return sum(sum(scaled(v, c), scaled(cross(axis, v), s)), scaled(axis, dot(axis, v) * (1 - c)));
}

// `place` has cameras, first, target, up. Calls `changed()` after every move.
function makeWalk(canvas, place, changed) {
  const up = unit(place.up);
  const walk = { rotation: null, position: null, target: null, fov: null, index: place.first, spinning: false };

  walk.show = (index) => {
    walk.index = (index + place.cameras.length) % place.cameras.length;
    const camera = place.cameras[walk.index];
    walk.rotation = camera.rotation.slice();
    walk.position = camera.position.slice();
    walk.target = place.target.slice();
    walk.fov = [camera.fov_x, camera.fov_y];
    // Upright, unless it looks nearly along the vertical.
    const forward = row(walk.rotation, 2), right = cross(forward, up);
    if (Math.hypot(...right) > 0.2) {
      const level = unit(right);
      walk.rotation = [...level, ...cross(forward, level), ...forward];
    }
    changed();
  };
  // Focal length in pixels of a canvas with which all that the camera saw is seen.
  walk.focal = () => Math.min(canvas.width / (2 * Math.tan(walk.fov[0] / 2)), canvas.height / (2 * Math.tan(walk.fov[1] / 2)));
  const distance = () => Math.max(Math.hypot(...sum(walk.target, scaled(walk.position, -1))), 1e-6);

  walk.orbit = (across, over) => {
    const tilt = Math.asin(Math.max(-1, Math.min(1, dot(row(walk.rotation, 2), up))));
    const limit = 1.5, next = Math.max(-limit, Math.min(limit, tilt + over));
    const right = row(walk.rotation, 0);
    const about = (v) => turned(turned(v, right, next - tilt), up, across);
    const arm = about(sum(walk.position, scaled(walk.target, -1)));
    walk.position = sum(walk.target, arm);
    walk.rotation = [0, 1, 2].flatMap((i) => about(row(walk.rotation, i)));
    changed();
  };
  walk.move = (right, down, forward) => {
    const by = [0, 1, 2].map((i) => [right, down, forward].reduce((total, a, j) => total + a * walk.rotation[3 * j + i], 0));
    walk.position = sum(walk.position, by);
    walk.target = sum(walk.target, by);
    changed();
  };
  walk.zoom = (factor) => {
    const arm = sum(walk.target, scaled(walk.position, -1));
    walk.position = sum(walk.target, scaled(arm, -factor));
    changed();
  };
  walk.distance = distance;

  const held = new Map();
  const ratio = () => canvas.width / canvas.clientWidth;
  const spread = () => { const [a, b] = [...held.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, { x: event.clientX, y: event.clientY });
    canvas.classList.add("held");
    walk.spinning = false;
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, (event) => {
      held.delete(event.pointerId);
      if (!held.size) canvas.classList.remove("held");
    });
  }
  canvas.addEventListener("pointermove", (event) => {
    const last = held.get(event.pointerId);
    if (!last) return;
    const dx = event.clientX - last.x, dy = event.clientY - last.y, before = held.size > 1 ? spread() : 0;
    held.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const pixel = ratio() * distance() / walk.focal() / held.size;
    if (held.size > 1 || event.shiftKey || event.buttons & 6) walk.move(-dx * pixel, -dy * pixel, 0);
    else walk.orbit(-dx * 0.006, -dy * 0.006);
    if (before) walk.zoom(Math.min(2, Math.max(0.5, before / (spread() || 1))));
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    walk.zoom(Math.exp(Math.max(-120, Math.min(120, event.deltaY * (event.deltaMode ? 30 : 1))) * 0.0015));
  }, { passive: false });

  const FLY = { KeyW: [0, 0, 1], KeyS: [0, 0, -1], KeyA: [-1, 0, 0], KeyD: [1, 0, 0], KeyQ: [0, 1, 0], KeyE: [0, -1, 0],
    ArrowUp: [0, 0, 1], ArrowDown: [0, 0, -1], ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0] };
  const pressed = new Set();
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (FLY[event.code]) { pressed.add(event.code); event.preventDefault(); changed(); }
  });
  addEventListener("keyup", (event) => pressed.delete(event.code));
  addEventListener("blur", () => pressed.clear());
  // What goes on by itself, for `seconds` of time; whether anything does.
  walk.advance = (seconds) => {
    for (const code of pressed) walk.move(...scaled(FLY[code], 0.6 * seconds * distance()));
    if (walk.spinning) walk.orbit(0.3 * seconds, 0);
    return pressed.size > 0 || walk.spinning;
  };
  return walk;
}
