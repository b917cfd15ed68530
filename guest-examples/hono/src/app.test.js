import assert from 'node:assert/strict';
import { test } from 'node:test';
import { app } from './app.js';

test('a user is told as JSON, and nobody is not found', async () => {
  assert.deepEqual(await (await app.request('/users/7')).json(), { id: 7, name: 'user-7' });
  assert.equal((await app.request('/users/0')).status, 404);
});

test('a stream has as many lines as were asked for', async () => {
  const answer = await app.request('/stream?count=2&interval-ms=1');
  assert.equal(await answer.text(), 'line 0\nline 1\n');
});
