// Says hello from a worker: one isolate, kept for all requests.
export default {
  fetch() {
    return new Response("Hello, world!\n");
  },
};
