"""Draws bars as SVG, by hand: CPU time per request, in panels with a scale each, for one is a hundred times another."""

import itertools
from xml.sax.saxutils import escape

WIDTH = 860
LABEL_WIDTH = 190
BAR_WIDTH = WIDTH - LABEL_WIDTH - 110
ROW_HEIGHT = 26
BAR_HEIGHT = 16
COLOURS = {"fnhost": "#2563c9", "axum": "#9aa3ad", "wasmtime": "#d08a3c", "workerd": "#7a8f4a"}
STYLE = """
  text { font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328 }
  .title { font-size: 16px; font-weight: 600 }
  .panel { font-weight: 600 }
  .small { font-size: 12px; fill: #57606a }
  .axis { stroke: #d0d7de }
  .range { stroke: #1f2328 }
"""


def svg(results, subtitle):
    parts = [text(16, 28, "CPU time per request, µs (less is better)", "title"), text(16, 48, subtitle, "small")]
    parts.append(legend({each.kind for each in results.measured()}))
    y = 92
    for panel, group in itertools.groupby(sorted(results.measured(), key=lambda each: panel_order(results, each)),
                                          key=lambda each: each.panel):
        rows = [(each, results.column(each.name, "cpu"), results.median(each.name, "cpu")) for each in group]
        parts.append(text(16, y + 4, panel, "panel"))
        y += 14
        scale = BAR_WIDTH / (max(max(column) for _, column, _ in rows) or 1)
        bottom = y + ROW_HEIGHT * len(rows)
        parts.append(f'<line class="axis" x1="{LABEL_WIDTH}" y1="{y}" x2="{LABEL_WIDTH}" y2="{bottom}"/>')
        for contender, column, median in rows:
            parts.append(bar(contender, y, column, median, scale))
            y += ROW_HEIGHT
        y += 30
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">'
    paper = f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>'
    return "\n".join([head, f"<style>{STYLE}</style>", paper, *parts, "</svg>"]) + "\n"


def panel_order(results, contender):
    """Panels in the order of their first contender; within each, the cheapest first."""
    first = [each.panel for each in results.contenders].index(contender.panel)
    return first, results.median(contender.name, "cpu")


def bar(contender, y, column, median, scale):
    middle = y + ROW_HEIGHT / 2
    low, high = (LABEL_WIDTH + value * scale for value in (min(column), max(column)))
    return "\n".join([
        text(LABEL_WIDTH - 8, middle + 4, contender.name, anchor="end"),
        f'<rect x="{LABEL_WIDTH}" y="{middle - BAR_HEIGHT / 2}" width="{max(median * scale, 1):.1f}" '
        f'height="{BAR_HEIGHT}" fill="{COLOURS[contender.kind]}"/>',
        f'<line class="range" x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}"/>',
        text(max(high, LABEL_WIDTH + median * scale) + 8, middle + 4, f"{median:,.1f}"),
    ])


def legend(kinds):
    parts, x = [], 16
    for kind, colour in COLOURS.items():
        if kind in kinds:
            parts.append(f'<rect x="{x}" y="60" width="11" height="11" fill="{colour}"/>')
            parts.append(text(x + 16, 70, kind, "small"))
            x += 34 + 8 * len(kind)
    parts.append(text(x, 70, "thin line: least to most of all rounds", "small"))
    return "\n".join(parts)


def text(x, y, words, style="", anchor="start"):
    shape = f' class="{style}"' if style else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{shape}>{escape(words)}</text>'
