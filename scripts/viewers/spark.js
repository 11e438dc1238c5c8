// SPDX-License-Identifier: Apache-2.0
// A file of splats in Spark on three.js, whose axes are those of the file.
import { SparkRenderer, SplatMesh } from "@sparkjsdev/spark";
import { PerspectiveCamera, Scene, Vector3, WebGLRenderer } from "three";

const { file, position, target, up, fov } = window.task;
const renderer = new WebGLRenderer({ canvas: document.getElementById("canvas"), preserveDrawingBuffer: true });
renderer.setSize(innerWidth, innerHeight, false);
const scene = new Scene();
const camera = new PerspectiveCamera(fov, innerWidth / innerHeight, 0.01, 1000);
camera.position.set(...position);
camera.up.set(...up);
camera.lookAt(new Vector3(...target));
scene.add(new SparkRenderer({ renderer }));
const mesh = new SplatMesh({ url: file });
scene.add(mesh);
await mesh.initialized;
window.frames_shown = 0;
renderer.setAnimationLoop(() => {
  renderer.render(scene, camera);
  window.frames_shown += 1;
});
