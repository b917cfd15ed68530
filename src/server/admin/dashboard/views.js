// Tables and lists. Whatever comes from the host is put in as text (textContent), never as markup.

import { get, post } from "./api.js";
import { redrawSpark, showNanos, spark } from "./charts.js";

export const element = (id) => document.getElementById(id);

/** A new element with this text. */
export function make(tag, text = "", kind = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

const mebibytes = (bytes) => (bytes ? `${(bytes / 1048576).toFixed(1)} MiB` : "-");
const pair = ([median, high]) => `${showNanos(median)} / ${showNanos(high)}`;

// ---- Functions

const SPARK_SECONDS = 60;
const columns = {
  name: (one) => `${one.app}/${one.function}`,
  release: (one) => one.release,
  requests: (one) => one.requests,
  errors: (one) => one.errors,
  cold: (one) => one.cold_start_ns[0],
  handler: (one) => one.handler_ns[0],
  cpu: (one) => one.cpu_ns[0],
  memory: (one) => one.memory_peak_bytes,
};

/** The table of functions: a row each, kept and changed in place. */
export class Functions {
  rows = new Map();
  history = new Map();
  sort = { by: "name", down: false };

  constructor() {
    this.body = element("functions-table").tBodies[0];
    element("functions-filter").addEventListener("input", () => this.arrange());
    for (const button of document.querySelectorAll("[data-sort]")) {
      button.addEventListener("click", () => {
        const by = button.dataset.sort;
        this.sort = { by, down: this.sort.by === by ? !this.sort.down : by !== "name" };
        this.arrange();
      });
    }
  }

  async refresh() {
    const { functions } = await get("/v1/functions");
    const known = new Set();
    for (const one of functions) {
      const name = columns.name(one);
      known.add(name);
      const row = this.rows.get(name) ?? this.add(name);
      row.figures = one;
      const texts = [
        one.release, one.requests, one.errors, pair(one.cold_start_ns), pair(one.handler_ns), pair(one.cpu_ns),
        mebibytes(one.memory_peak_bytes),
      ];
      texts.forEach((text, at) => {
        const cell = row.cells[at + 2];
        if (cell.textContent !== String(text)) cell.textContent = text;
      });
      row.cells[4].classList.toggle("bad", one.errors > 0);
    }
    for (const [name, row] of this.rows) {
      if (!known.has(name)) {
        row.tr.remove();
        this.rows.delete(name);
        this.history.delete(name);
      }
    }
    this.arrange();
    // Behind the paint that has the rows: for whoever measures.
    if (this.rows.size) requestAnimationFrame(() => setTimeout(() => (window.fnhostRows ??= performance.now())));
  }

  add(name) {
    const tr = document.createElement("tr");
    const cells = Object.keys(columns).map(() => make("td", "", "number"));
    const head = make("td", name);
    const line = make("td");
    tr.append(head, line, ...cells.slice(1));
    const row = { tr, cells: [head, line, ...cells.slice(1)], figures: null };
    this.rows.set(name, row);
    return row;
  }

  arrange() {
    const wanted = element("functions-filter").value.trim().toLowerCase();
    const value = columns[this.sort.by];
    const shown = [...this.rows].filter(([name]) => name.includes(wanted)).map(([, row]) => row);
    const compare = (one, other) => (value(one.figures) < value(other.figures) ? -1 : value(one.figures) > value(other.figures) ? 1 : 0);
    shown.sort((one, other) => (this.sort.down ? compare(other, one) : compare(one, other)));
    const wantedRows = shown.map((row) => row.tr);
    const now = [...this.body.rows];
    if (now.length !== wantedRows.length || now.some((tr, at) => tr !== wantedRows[at])) this.body.replaceChildren(...wantedRows);
    element("functions-count").textContent = `${shown.length} of ${this.rows.size}`;
    for (const button of document.querySelectorAll("[data-sort]")) {
      const th = button.closest("th");
      if (button.dataset.sort === this.sort.by) th.setAttribute("aria-sort", this.sort.down ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    }
  }

  /** Requests of a second, by function. */
  note(tick) {
    for (const [app, name, requests] of tick.functions) {
      const key = `${app}/${name}`;
      const history = this.history.get(key) ?? this.history.set(key, new Map()).get(key);
      history.set(tick.second, requests);
    }
  }

  draw(second) {
    for (const [name, history] of this.history) {
      for (const old of history.keys()) if (old <= second - SPARK_SECONDS) history.delete(old);
      const row = this.rows.get(name);
      if (!history.size) {
        this.history.delete(name);
        row?.cells[1].replaceChildren();
        continue;
      }
      if (!row) continue;
      const numbers = Array.from({ length: SPARK_SECONDS }, (_, at) => history.get(second - SPARK_SECONDS + 1 + at) ?? 0);
      const drawn = row.cells[1].firstChild;
      if (drawn) redrawSpark(drawn, numbers);
      else row.cells[1].append(spark(numbers));
    }
  }
}

// ---- Releases

/** Asks whether something is to be done. */
function confirmed(text) {
  const dialog = element("confirm");
  element("confirm-text").textContent = text;
  dialog.showModal();
  return new Promise((answer) => {
    const close = (yes) => () => {
      dialog.close();
      answer(yes);
    };
    element("confirm-yes").onclick = close(true);
    element("confirm-no").onclick = close(false);
    dialog.oncancel = () => answer(false);
  });
}

export class Releases {
  constructor(report) {
    this.report = report;
    this.select = element("releases-app");
    this.body = element("releases-table").tBodies[0];
    this.select.addEventListener("change", () => this.refresh());
  }

  async refresh() {
    const { apps } = await get("/v1/apps");
    const names = apps.map((app) => app.name);
    if (names.join() !== [...this.select.options].map((option) => option.value).join()) {
      const chosen = this.select.value;
      this.select.replaceChildren(...names.map((name) => make("option", name)));
      if (names.includes(chosen)) this.select.value = chosen;
    }
    const app = this.select.value;
    if (!app) return this.body.replaceChildren();
    const { releases } = await get(`/v1/apps/${encodeURIComponent(app)}/releases`);
    const live = releases.find((release) => release.state === "live")?.number;
    const said = JSON.stringify([app, releases]);
    if (said === this.said) return;
    this.said = said;
    this.body.replaceChildren(...releases.map((release) => this.row(app, release, live)));
  }

  row(app, release, live) {
    const tr = document.createElement("tr");
    const state = release.share ? `${release.state} ${release.share}` : release.state;
    const message = [release.message, release.note].filter(Boolean).join("; ");
    const actions = make("td");
    const act = (label, question, path, body) => {
      const button = make("button", label);
      button.type = "button";
      button.addEventListener("click", () => this.change(question, `/v1/apps/${encodeURIComponent(app)}/${path}`, { ...body, base: live }));
      actions.append(button, " ");
    };
    if (release.state === "canary") {
      act("Promote", `Give release ${release.number} of ${app} all requests?`, "promote", {});
      act("Roll back", `Give release ${release.number} of ${app} no more requests?`, "rollback", {});
    } else if (release.state === "old") {
      act("Roll back to this", `Go back to release ${release.number} of ${app}?`, "rollback", { to: release.number });
    }
    tr.append(make("td", release.number, "number"), make("td", state), make("td", release.created), make("td", release.source), make("td", message, "message"), actions);
    return tr;
  }

  async change(question, path, body) {
    if (!(await confirmed(question))) return;
    try {
      await post(path, body);
      this.report("");
    } catch (error) {
      this.report(error.message);
    }
    await this.refresh();
  }
}

// ---- One request

const PHASES = ["queue", "store", "instantiate", "handler", "body"];

export async function showRequest(id) {
  const view = element("request-view");
  element("request-id").value = id;
  const [receipt, logs] = await Promise.all([
    get(`/v1/receipts/${encodeURIComponent(id)}`).catch((error) => error),
    get(`/v1/logs?request=${encodeURIComponent(id)}`).catch(() => ({ lines: [] })),
  ]);
  view.replaceChildren();
  if (receipt instanceof Error) {
    view.append(make("p", receipt.message, "problem"));
  } else {
    const who = receipt.function ? `${receipt.app}/${receipt.function}, release ${receipt.release}` : "no function";
    view.append(make("p", `${receipt.method} ${receipt.status} ${receipt.outcome}: ${who}, ${receipt.ended}`));
    view.append(timeline(receipt));
    const cost = `CPU ${showNanos(receipt.cpu_ns)}, memory ${mebibytes(receipt.memory_peak_bytes)}, ${receipt.bytes_in} bytes in, ${receipt.bytes_out} bytes out`;
    view.append(make("p", cost));
  }
  if (logs.lines.length) view.append(make("pre", logs.lines.map((line) => `${line.time} ${line.level} ${line.message}`).join("\n")));
}

function timeline(receipt) {
  const grid = make("div", "", "timeline");
  const total = PHASES.reduce((sum, phase) => sum + receipt[`${phase}_ns`], 0) || 1;
  let start = 0;
  for (const phase of PHASES) {
    const nanos = receipt[`${phase}_ns`];
    const track = make("div", "", "track");
    const bar = make("div", "", `bar ${phase}`);
    bar.style.left = `${(start / total) * 100}%`;
    bar.style.width = `${(nanos / total) * 100}%`;
    track.append(bar);
    grid.append(make("span", phase), make("span", showNanos(nanos), "number"), track);
    start += nanos;
  }
  return grid;
}

// ---- Usage

export async function showUsage() {
  const by = element("usage-by").value;
  const hours = element("usage-since").value;
  const since = hours ? `&since=${encodeURIComponent(new Date(Date.now() - hours * 3_600_000).toISOString())}` : "";
  const usage = await get(`/v1/usage?by=${by}${since}`);
  const table = element("usage-table");
  const heads = [by, "requests", "refused", "errors", "CPU ms", "GB-seconds", "bytes in", "bytes out", "cold start ms"];
  if (usage.currency) heads.push(`cost (${usage.currency})`);
  const cells = (row, name) => [
    name, row.requests, row.refused, row.errors, row.cpu_ms.toFixed(1), row.gb_seconds.toFixed(6), row.bytes_in, row.bytes_out,
    (row.cold_start_us / 1000).toFixed(1), ...(usage.currency ? [row.cost.toFixed(6)] : []),
  ];
  const line = (tag, texts) => {
    const tr = document.createElement("tr");
    tr.append(...texts.map((text, at) => make(tag, text, at ? "number" : "")));
    return tr;
  };
  const name = (row) => row.hour ?? ([row.app, row.function, row.release].filter(Boolean).join(" / ") || "(no route)");
  table.tHead.replaceChildren(line("th", heads));
  table.tBodies[0].replaceChildren(...usage.rows.map((row) => line("td", cells(row, name(row)))));
  table.tFoot.replaceChildren(line("td", cells(usage.total, "all")));
}
