// Makes dist/hono.wasm: one module of src/ and what it imports (rolldown), then a component of that module
// (componentize-js), which takes seconds and is left out where nothing has changed.
//
// `jco componentize` does both as well, but finds no file under Node.js 20; called like this, componentize-js looks for none.
// package.json names preview2-shim because componentize-js imports it and does not say so.

import { componentize } from '@bytecodealliance/componentize-js';
import { build } from 'rolldown';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const text = async (relative) => (existsSync(path(relative)) ? readFile(path(relative), 'utf8') : '');

await build({
  input: path('src/component.js'),
  output: { file: path('dist/component.js'), format: 'esm' },
  logLevel: 'warn',
});
const inputs = ['dist/component.js', 'wit/world.wit', 'package-lock.json', 'build.mjs'];
const made = createHash('sha256').update(JSON.stringify(await Promise.all(inputs.map(text)))).digest('hex');
if (!existsSync(path('dist/hono.wasm')) || (await text('dist/made-of.txt')) !== made) {
  // Whoever is interrupted makes it again.
  await rm(path('dist/made-of.txt'), { force: true });
  const { component } = await componentize({
    sourcePath: path('dist/component.js'),
    witWorld: await text('wit/world.wit'),
    worldName: 'app',
  });
  await writeFile(path('dist/hono.wasm'), component);
  await writeFile(path('dist/made-of.txt'), made);
}
