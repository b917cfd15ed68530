// A whole Hono app in one function: paths, queries, JSON, uploads, a stream, middleware.

import { Hono } from 'hono';
import { streamText } from 'hono/streaming';

export const app = new Hono();

app.use(async (c, next) => {
  await next();
  c.header('x-layer', 'stamped');
});

app.get('/', (c) => c.text('a Hono app in a function\n'));

app.get('/users/:id', (c) => {
  const id = Number(c.req.param('id'));
  return id > 0 ? c.json({ id, name: `user-${id}` }) : c.text('nobody\n', 404);
});

app.get('/search', (c) => c.text(`page ${c.req.query('page') ?? 0} of what is like ${c.req.query('q')}\n`));

// Handed on as it comes, and not held.
app.post('/echo', (c) => c.body(c.req.raw.body, 200, { 'content-type': c.req.header('content-type') ?? 'text/plain' }));

app.post('/sum', async (c) => c.json((await c.req.json()).reduce((sum, number) => sum + number, 0)));

app.get('/stream', (c) =>
  streamText(c, async (stream) => {
    for (let line = 0; line < Number(c.req.query('count') ?? 3); line++) {
      if (line > 0) await stream.sleep(Number(c.req.query('interval-ms') ?? 100));
      await stream.writeln(`line ${line}`);
    }
  }),
);
