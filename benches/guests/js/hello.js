// Says hello from a component of StarlingMonkey: the fetch event, as in a service worker.
addEventListener("fetch", (event) => event.respondWith(new Response("Hello, world!\n")));
