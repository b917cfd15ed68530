// Makes dist/hono.wasm: one module of src/ and what it imports (rolldown), then a component of that module
// (componentize-js).
//
// `jco componentize` does both as well, from Node.js 24 on; called like this, Node.js 20 is enough.

import { componentize } from '@bytecodealliance/componentize-js';
import { build } from 'rolldown';
import { writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));

await build({
  input: path('src/component.js'),
  output: { file: path('dist/component.js'), format: 'esm' },
  logLevel: 'warn',
});
const { component } = await componentize({
  sourcePath: path('dist/component.js'),
  witPath: path('wit'),
  worldName: 'app',
});
await writeFile(path('dist/hono.wasm'), component);
