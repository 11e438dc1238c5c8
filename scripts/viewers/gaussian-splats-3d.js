// SPDX-License-Identifier: Apache-2.0
// A file of splats in GaussianSplats3D on three.js, whose axes are those of the file.
import { DropInViewer } from "@mkkellogg/gaussian-splats-3d";
import { PerspectiveCamera, Scene, Vector3, WebGLRenderer } from "three";

const { file, position, target, up, fov } = window.task;
const renderer = new WebGLRenderer({ canvas: document.getElementById("canvas"), preserveDrawingBuffer: true });
renderer.setSize(innerWidth, innerHeight, false);
const scene = new Scene();
const camera = new PerspectiveCamera(fov, innerWidth / innerHeight, 0.01, 1000);
camera.position.set(...position);
camera.up.set(...up);
camera.lookAt(new Vector3(...target));
camera.updateMatrixWorld();
const viewer = new DropInViewer({ sharedMemoryForWorkers: false, gpuAcceleratedSort: false, sphericalHarmonicsDegree: 2 });
scene.add(viewer);
await viewer.addSplatScene(file, { showLoadingUI: false, progressiveLoad: false, splatAlphaRemovalThreshold: 0 });
window.frames_shown = 0;
renderer.setAnimationLoop(() => {
  renderer.render(scene, camera);
  window.frames_shown += 1;
});
