// SPDX-License-Identifier: Apache-2.0
// From the page's data to a picture. `window.viewer` is for scripts and tests: ready, show(), pixels().

const element = (id) => document.getElementById(id);

async function start() {
  const canvas = element("canvas"), place = JSON.parse(element("opening").textContent);
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser is too old: it needs Chrome 80, Firefox 113 or Safari 16.4, or later.");
  }
  const splats = await unpackSplats(element("splats").textContent);
  const renderer = makeRenderer(canvas, splats);
  let dirty = true, sorted = null, last = 0, share = 1, rest = 0, slow = 0;
  const walk = makeWalk(canvas, place, () => { dirty = true; });

  const depthRow = () => {
    const forward = row(walk.rotation, 2);
    return [...forward, -dot(forward, walk.position)];
  };
  const request = startSorting(splats.means, (order) => {
    renderer.setOrder(order);
    sorted = order;
    dirty = true;
  });
  const resize = () => {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    dirty = true;
  };
  addEventListener("resize", resize);
  resize();
  walk.show(place.first);

  let asked = "";
  const frame = (now) => {
    const seconds = Math.min((now - last) / 1000, 0.1);
    last = now;
    const moving = walk.advance(seconds);
    const key = depthRow().join();
    if (key !== asked) { asked = key; rest = 0; request(depthRow()); }
    rest += seconds;
    // A slow machine gets a coarser picture while the camera moves, and the whole one when it rests.
    const wanted = rest > 0.25 && !moving ? 1 : share;
    if (dirty || wanted !== slow) {
      const began = performance.now();
      renderer.draw(walk, walk.focal(), place.background, wanted);
      renderer.finish();
      const took = performance.now() - began;
      if (wanted === share && rest < 0.25) {
        if (took > 60 && share > 0.35) share *= 0.75;
        else if (took < 20 && share < 1) share = Math.min(1, share * 1.2);
      }
      slow = wanted;
      dirty = false;
      if (sorted) window.viewer.ready = true;
    }
    requestAnimationFrame(frame);
  };

  const actions = {
    KeyR: () => walk.show(place.first),
    KeyN: () => walk.show(walk.index + 1),
    KeyP: () => walk.show(walk.index - 1),
    Space: () => { walk.spinning = !walk.spinning; },
    KeyF: () => document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen(),
    KeyH: () => { element("help").hidden = !element("help").hidden; },
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !actions[event.code]) return;
    event.preventDefault();
    actions[event.code]();
  });
  for (const [id, code] of [["reset", "KeyR"], ["next", "KeyN"], ["turn", "Space"], ["full", "KeyF"], ["about", "KeyH"]]) {
    element(id).addEventListener("click", () => { actions[code](); canvas.focus(); });
  }
  element("next").hidden = place.cameras.length < 2;

  window.viewer = {
    ready: false, n: splats.n, walk, place,
    // Shows exactly a camera: rotation (9 numbers), position, focal in pixels. Resolves when it is drawn.
    async show(rotation, position, focal) {
      Object.assign(walk, { rotation, position, spinning: false });
      walk.focal = () => focal;
      const sort = makeSorter(splats.means);
      renderer.setOrder(sort(depthRow()));
      asked = depthRow().join();
      renderer.draw(walk, focal, place.background, 1);
      renderer.finish();
    },
  };
  element("message").hidden = true;
  element("bar").hidden = false;
  requestAnimationFrame(frame);
}

// The data stand behind this in the page, so that a page cut short is noticed.
addEventListener("DOMContentLoaded", () => start().catch((error) => {
  element("message").textContent = error.message || String(error);
  window.viewer = { error: String(error) };
}));
