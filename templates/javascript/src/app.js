// The app: routes and what they answer. https://hono.dev/docs says what else it can do.

import { Hono } from 'hono';

export const app = new Hono();

// A function sees the whole path of a request.
app.get('/template-route', (c) => c.text('Hello, world!\n'));
app.get('/template-route/:name', (c) => c.json({ hello: c.req.param('name') }));
