import assert from 'node:assert/strict';
import { test } from 'node:test';
import { app } from './app.js';

test('it says hello', async () => {
  const answer = await app.request('/template-route');
  assert.equal(answer.status, 200);
  assert.equal(await answer.text(), 'Hello, world!\n');
});

test('it greets whom the path names', async () => {
  const answer = await app.request('/template-route/you');
  assert.deepEqual(await answer.json(), { hello: 'you' });
});

test('what it does not know is not found', async () => {
  assert.equal((await app.request('/template-route/you/and/me')).status, 404);
});
