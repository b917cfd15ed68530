// The admin API: requests with the token, and streams of events. The token stays in this tab (sessionStorage), and goes
// nowhere but into the Authorization header.

const KEY = "fnhost-admin-token";

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** What the host answered when it did not do what it was asked for. */
export class Problem extends Error {
  constructor(status, problem) {
    super(problem.detail || `the host answered ${status}`);
    this.status = status;
    this.code = problem.code;
  }
}

async function request(path, options = {}) {
  const response = await fetch(path, {
    ...options,
    cache: "no-store",
    headers: { Authorization: `Bearer ${token.get() ?? ""}`, ...options.headers },
  });
  if (!response.ok) {
    throw new Problem(response.status, await response.json().catch(() => ({})));
  }
  return response;
}

export async function get(path) {
  return (await request(path)).json();
}

export async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return (await request(path, { method: "POST", body: JSON.stringify(body), headers })).json();
}

/**
 * Follows a stream of events until it is stopped; opens it again when it breaks off.
 * `each` is called with the name and the data of each event, `state` with "open" or "closed". Returns what stops it.
 */
export function follow(path, each, state = () => {}) {
  const stop = new AbortController();
  (async () => {
    for (let wait = 500; !stop.signal.aborted; wait = Math.min(wait * 2, 10_000)) {
      try {
        const response = await request(path, { signal: stop.signal });
        state("open");
        wait = 500;
        await read(response.body.pipeThrough(new TextDecoderStream()).getReader(), each);
      } catch (error) {
        if (error instanceof Problem && error.status < 500) {
          state("refused", error);
          return;
        }
      }
      if (stop.signal.aborted) return;
      state("closed");
      await new Promise((resume) => setTimeout(resume, wait));
    }
  })();
  return () => stop.abort();
}

async function read(reader, each) {
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      let name = "";
      let data = "";
      for (const line of event.split("\n")) {
        if (line.startsWith("event: ")) name = line.slice(7);
        else if (line.startsWith("data: ")) data = line.slice(6);
      }
      if (name) each(name, JSON.parse(data));
    }
  }
}
