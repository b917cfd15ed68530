// Charts, drawn on canvases. Each has a label that says in words what it shows.

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** A time, in the unit in which it reads best. */
export function showNanos(nanos) {
  if (!nanos) return "-";
  for (const [unit, size] of [["s", 1e9], ["ms", 1e6], ["us", 1e3]]) {
    if (nanos >= size) return `${(nanos / size).toPrecision(3)} ${unit}`;
  }
  return `${nanos} ns`;
}

function begin(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "11px system-ui, sans-serif";
  return { context, width, height };
}

function axis(context, text, y) {
  context.fillStyle = colour("soft");
  context.fillText(text, 2, y);
}

/** Bars of some parts each, stacked. `bars` is a list of lists of numbers. */
export function stacked(canvas, bars, colours, show, label) {
  const { context, width, height } = begin(canvas);
  const sums = bars.map((parts) => parts.reduce((sum, part) => sum + part, 0));
  const most = Math.max(...sums, 0) || 1;
  const step = width / Math.max(bars.length, 1);
  const inks = colours.map(colour);
  bars.forEach((parts, at) => {
    let y = height;
    parts.forEach((part, which) => {
      const tall = (part / most) * (height - 16);
      context.fillStyle = inks[which];
      context.fillRect(at * step, y - tall, Math.max(step - 0.5, 0.5), tall);
      y -= tall;
    });
  });
  axis(context, show(most), 11);
  canvas.setAttribute("aria-label", `${label}: ${show(sums.at(-1) ?? 0)} in the last second, ${show(most)} at most`);
}

/** Columns of counts; the darker, the more. `bounds` are the upper ends of the rows, in nanoseconds. */
export function heat(canvas, columns, bounds, label) {
  const { context, width, height } = begin(canvas);
  const used = columns.flatMap((counts) => counts.flatMap((count, row) => (count ? [row] : [])));
  if (!used.length) return;
  const [low, high] = [Math.min(...used), Math.max(...used)];
  const rows = high - low + 1;
  const most = Math.max(...columns.flat());
  const [wide, tall] = [width / columns.length, height / rows];
  context.fillStyle = colour("accent");
  columns.forEach((counts, at) => {
    for (let row = low; row <= high; row += 1) {
      if (!counts[row]) continue;
      context.globalAlpha = 0.12 + 0.88 * (Math.log1p(counts[row]) / Math.log1p(most));
      context.fillRect(at * wide, height - (row - low + 1) * tall, Math.max(wide - 0.5, 0.5), tall - 0.5);
    }
  });
  context.globalAlpha = 1;
  const name = (row) => (row < bounds.length ? showNanos(bounds[row]) : `over ${showNanos(bounds.at(-1))}`);
  axis(context, name(high), 11);
  axis(context, name(low), height - 3);
  canvas.setAttribute("aria-label", `${label}: from ${name(low)} to ${name(high)}`);
}

const SVG = "http://www.w3.org/2000/svg";

/** A line of some numbers, small. */
export function spark(numbers) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", `0 0 ${numbers.length - 1} 20`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const line = document.createElementNS(SVG, "polyline");
  line.setAttribute("vector-effect", "non-scaling-stroke");
  svg.append(line);
  redrawSpark(svg, numbers);
  return svg;
}

export function redrawSpark(svg, numbers) {
  const most = Math.max(...numbers, 1);
  svg.firstChild.setAttribute("points", numbers.map((number, at) => `${at},${19 - (number / most) * 18}`).join(" "));
  svg.setAttribute("aria-label", `${numbers.reduce((sum, number) => sum + number, 0)} requests in the last minute`);
}
