// SPDX-License-Identifier: Apache-2.0
// usage: node bundle.mjs NODE_MODULES ENTRY.js OUT.js : one file of an entry and the packages that it imports.
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

const [modules, entry, outfile] = process.argv.slice(2).map((path) => resolve(path));
const { build } = createRequire(join(modules, "package.json"))("esbuild");
await build({
  entryPoints: [entry],
  outfile,
  nodePaths: [modules],
  bundle: true,
  format: "esm",
  target: "esnext",
  logLevel: "error",
});
