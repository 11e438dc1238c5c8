// SPDX-License-Identifier: Apache-2.0
// A file of splats in Babylon.js, which turns y the other way when it loads one.
import "@babylonjs/loaders/SPLAT/index.js";
import "@babylonjs/loaders/glTF/index.js";
import { Color4, Engine, FreeCamera, ImportMeshAsync, Scene, Vector3 } from "@babylonjs/core";
import * as fflate from "fflate";

const { file, position, target, up, fov } = window.task;
const turned = ([x, y, z]) => new Vector3(x, -y, z);
const engine = new Engine(document.getElementById("canvas"), false, { preserveDrawingBuffer: true });
const scene = new Scene(engine);
scene.clearColor = new Color4(0, 0, 0, 1);
const camera = new FreeCamera("camera", turned(position), scene);
camera.upVector = turned(up);
camera.minZ = 0.01;
camera.fov = (fov * Math.PI) / 180;
camera.setTarget(turned(target));
// what it would fetch from elsewhere is given: the unpacker of .sog, and the reader of .spz by its own code
await ImportMeshAsync(file, scene, { pluginOptions: { splat: { fflate, spzLibraryUrl: undefined } } });
window.frames_shown = 0;
engine.runRenderLoop(() => {
  scene.render();
  window.frames_shown += 1;
});
