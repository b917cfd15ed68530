// What the component does with a request: the app answers it.

import { app } from './app.js';

addEventListener('fetch', (event) => event.respondWith(app.fetch(event.request)));
