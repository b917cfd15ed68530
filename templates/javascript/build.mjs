// Makes dist/template-name.wasm: one module of src/ and what it imports (rolldown), then a component of that module
// (componentize-js).
//
// `jco componentize` does both as well, but finds no file under Node.js 20; called like this, componentize-js looks for none.
// package.json names preview2-shim because componentize-js imports it and does not say so.

import { componentize } from '@bytecodealliance/componentize-js';
import { build } from 'rolldown';
import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));

await build({
  input: path('src/component.js'),
  output: { file: path('dist/component.js'), format: 'esm' },
  logLevel: 'warn',
});
const { component } = await componentize({
  sourcePath: path('dist/component.js'),
  witWorld: await readFile(path('wit/world.wit'), 'utf8'),
  worldName: 'app',
});
await writeFile(path('dist/template-name.wasm'), component);
