// The page: who may see it, what it follows, and when it draws. What is kept has a bound: the last minutes, the last lines.

import { follow, get, Problem, token } from "./api.js";
import { heat, showNanos, stacked } from "./charts.js";
import { element, Functions, make, Releases, showRequest, showUsage } from "./views.js";

const TICKS_MAX = 300;
const LINES_MAX = 500;
const TABLES_INTERVAL = 5000;

const ticks = [];
let bounds = [];
let second = 0;
let percentile = 0;
let stops = [];
let stopTail = () => {};
let functions;
let releases;

const report = (text) => (element("problem").textContent = text);

// ---- The token

function enter(problem = "") {
  leave();
  element("board").hidden = true;
  element("leave").hidden = true;
  element("enter").hidden = false;
  element("token-problem").textContent = problem;
  element("token").focus();
}

element("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  token.set(element("token").value.trim());
  element("token").value = "";
  await open();
});

element("leave").addEventListener("click", () => {
  token.forget();
  enter();
});

async function open() {
  let status;
  try {
    status = await get("/v1/status");
  } catch (error) {
    if (error instanceof Problem && error.status === 401) {
      token.forget();
      return enter("That is not the token.");
    }
    return enter("The host does not answer.");
  }
  element("enter").hidden = true;
  element("board").hidden = false;
  element("leave").hidden = false;
  element("host").textContent = `${status.version} at ${status.listen}`;
  functions ??= new Functions();
  releases ??= new Releases(report);
  begin();
}

// ---- What happens now

function begin() {
  leave();
  stops.push(follow("/v1/live", onLive, onState));
  const tables = setInterval(refreshTables, TABLES_INTERVAL);
  stops.push(() => clearInterval(tables));
  refreshTables();
  beginTail();
  quietly(showUsage());
}

function leave() {
  for (const stop of stops.splice(0)) stop();
  stopTail();
  stopTail = () => {};
}

/** Streams hold connections, of which a browser has six for one host: a page that nobody sees holds none. */
document.addEventListener("visibilitychange", () => {
  if (element("board").hidden) return;
  if (document.hidden) leave();
  else begin();
});

function onState(state, problem) {
  element("connection").textContent = { open: "live", closed: "connecting…", refused: problem?.message }[state];
  if (problem?.status === 401) enter("The token is not good any more.");
}

function onLive(name, data) {
  if (name === "bounds") bounds = data;
  if (name === "tick" && !ticks.some((tick) => tick.second === data.second)) {
    ticks.push(data);
    if (ticks.length > TICKS_MAX) ticks.shift();
    functions.note(data);
  }
  if (name === "now") {
    second = data.second - 1;
    element("now-sandboxes").textContent = `${data.sandboxes} / ${data.sandboxes_max}`;
    element("now-queued").textContent = data.queued;
    element("now-connections").textContent = data.connections;
    requestAnimationFrame(draw);
  }
}

/** The last minutes, second by second; those in which nothing happened are empty. */
function seconds() {
  const known = new Map(ticks.map((tick) => [tick.second, tick]));
  return Array.from({ length: TICKS_MAX }, (_, at) => known.get(second - TICKS_MAX + 1 + at));
}

function draw() {
  const line = seconds();
  const last = line.at(-1);
  element("now-requests").textContent = last?.requests ?? 0;
  element("now-errors").textContent = last?.errors ?? 0;
  element("now-cold").textContent = showNanos(last?.cold_start[0] ?? 0);
  const counts = line.map((tick) => [(tick?.requests ?? 0) - (tick?.errors ?? 0), tick?.errors ?? 0]);
  stacked(element("rate"), counts, ["accent", "bad"], (count) => `${count}/s`, "Requests and errors");
  const phases = line.map((tick) => [tick?.phases[1][percentile] ?? 0, tick?.phases[2][percentile] ?? 0]);
  stacked(element("cold"), phases, ["store", "instantiate"], showNanos, `Cold start by phase, ${percentile ? "p99" : "p50"}`);
  heat(element("heat"), line.map((tick) => tick?.latency ?? []), bounds, "Latency");
  functions.draw(second);
}

window.addEventListener("resize", () => {
  if (functions) requestAnimationFrame(draw);
});

for (const [id, which] of [["cold-p50", 0], ["cold-p99", 1]]) {
  element(id).addEventListener("click", () => {
    percentile = which;
    element("cold-p50").setAttribute("aria-pressed", String(which === 0));
    element("cold-p99").setAttribute("aria-pressed", String(which === 1));
    draw();
  });
}

// ---- Tables

function refreshTables() {
  quietly(functions.refresh());
  quietly(releases.refresh());
}

/** What fails now is tried again soon; the state of the connection is shown anyway. */
function quietly(work) {
  work.catch((error) => {
    if (error instanceof Problem && error.status === 401) enter("The token is not good any more.");
    else if (error instanceof Problem) report(error.message);
  });
}

for (const id of ["usage-by", "usage-since"]) element(id).addEventListener("change", () => quietly(showUsage()));
element("usage-refresh").addEventListener("click", () => quietly(showUsage()));

element("request-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = element("request-id").value.trim();
  if (id) quietly(showRequest(id));
});

// ---- Tail

let what = "logs";
let paused = false;
let waiting = [];
let missed = 0;

function beginTail() {
  stopTail();
  element("tail").replaceChildren();
  waiting = [];
  missed = 0;
  const filter = element("tail-filter").value.trim();
  const text = filter ? `&text=${encodeURIComponent(filter)}` : "";
  // As many receipts each second as can be looked at.
  const path = what === "logs" ? `/v1/logs/tail?limit=100${text}` : `/v1/receipts/tail?limit=50${text}`;
  stopTail = follow(path, onTail, (state, problem) => {
    if (state === "refused") element("tail-missed").textContent = problem.message;
    else if (state === "open") {
      element("tail-missed").textContent = "";
      if (what === "logs") element("tail").replaceChildren();
    }
  });
}

function onTail(name, data) {
  if (name === "missed") missed += data;
  else {
    waiting.push(data);
    if (waiting.length > LINES_MAX) waiting.shift();
    if (waiting.length === 1 && !paused) requestAnimationFrame(showTail);
  }
}

function showTail() {
  const list = element("tail");
  const atEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 20;
  list.append(...waiting.splice(0).map(what === "logs" ? logItem : receiptItem));
  while (list.childElementCount > LINES_MAX) list.firstChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
  element("tail-missed").textContent = missed ? `${missed} not shown` : "";
}

function idButton(id) {
  const button = make("button", id, "id");
  button.type = "button";
  button.addEventListener("click", () => {
    quietly(showRequest(id));
    element("request").scrollIntoView();
    element("request").focus();
  });
  return button;
}

function logItem(line) {
  const item = make("li", "", line.level.toLowerCase());
  const who = line.function ? `${line.app ?? ""}/${line.function}` : line.target;
  item.append(make("time", line.time.slice(11, 23)), ` ${line.level} ${who} ${line.message} `);
  if (line.request_id) item.append(idButton(line.request_id));
  return item;
}

function receiptItem(receipt) {
  const item = make("li", "", receipt.outcome === "ok" ? "" : "warn");
  const who = receipt.function ? `${receipt.app}/${receipt.function} r${receipt.release}` : "-";
  const times = ["queue", "store", "instantiate", "handler", "body"].map((phase) => `${phase} ${showNanos(receipt[`${phase}_ns`])}`);
  const text = ` ${receipt.status} ${receipt.method} ${who} ${times.join(", ")}, CPU ${showNanos(receipt.cpu_ns)} ${receipt.outcome} `;
  item.append(make("time", receipt.ended.slice(11, 23)), text, idButton(receipt.request_id));
  return item;
}

function choose(chosen) {
  what = chosen;
  element("tail-logs").setAttribute("aria-pressed", String(chosen === "logs"));
  element("tail-receipts").setAttribute("aria-pressed", String(chosen === "receipts"));
  beginTail();
}

element("tail-logs").addEventListener("click", () => choose("logs"));
element("tail-receipts").addEventListener("click", () => choose("receipts"));
element("tail-pause").addEventListener("click", () => {
  paused = !paused;
  element("tail-pause").setAttribute("aria-pressed", String(paused));
  if (!paused) showTail();
});

let typing;
element("tail-filter").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(beginTail, 300);
});

if (token.get()) open();
else enter();
