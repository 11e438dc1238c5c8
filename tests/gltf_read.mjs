// SPDX-License-Identifier: Apache-2.0
// usage: node gltf_read.mjs NODE_MODULES FILE.glb : what the Khronos validator says of it, and what glTF-Transform
// reads in it: {"issues": [...], "mode": n, "columns": {semantic: {"width": n, "values": [...]}}}.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

const require = createRequire(join(resolve(process.argv[2]), "package.json"));
const { validateBytes } = require("gltf-validator");
const { NodeIO, Logger } = require("@gltf-transform/core");
const bytes = new Uint8Array(readFileSync(process.argv[3]));
const { issues } = await validateBytes(bytes, { maxIssues: 1000 });
const io = new NodeIO().setLogger(new Logger(Logger.Verbosity.SILENT));
const [primitive] = (await io.readBinary(bytes)).getRoot().listMeshes()[0].listPrimitives();
const columns = {};
for (const semantic of primitive.listSemantics()) {
  const accessor = primitive.getAttribute(semantic);
  columns[semantic] = { width: accessor.getElementSize(), values: Array.from(accessor.getArray()) };
}
console.log(JSON.stringify({ issues: issues.messages, mode: primitive.getMode(), columns }));
