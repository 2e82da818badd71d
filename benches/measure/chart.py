"""Charts as SVG, drawn without a library: bars for verbs, lines for what grows."""

from xml.sax.saxutils import escape

COLOURS = {"brig": "#c0392b", "crun": "#2c7fb8", "runc": "#7fcdbb", "youki": "#8856a7", "limit": "#bbbbbb"}
_FONT = 'font-family="sans-serif" font-size="12"'


def _colour(name):
    return COLOURS.get(name, "#e6a23c")


def _text(x, y, words, anchor="start", extra=""):
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" {_FONT} {extra}>{escape(words)}</text>'


def _legend(names, x, y):
    parts = []
    for name in names:
        parts.append(f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{_colour(name)}"/>')
        parts.append(_text(x + 17, y, name))
        x += 40 + 8 * len(name)
    return parts


def bars(title, groups):
    """`groups` is {verb: {contender: milliseconds}}: a group of bars for each verb, longest scale shared."""
    names = list(next(iter(groups.values())))
    longest = max(value for group in groups.values() for value in group.values())
    row, left, width = 14, 70, 520
    height = 60 + len(groups) * (row * len(names) + 12)
    parts = [_text(10, 20, title, extra='font-weight="bold"'), *_legend(names, left, 42)]
    y = 60
    for verb, group in groups.items():
        parts.append(_text(left - 8, y + row * len(names) / 2 + 4, verb, "end"))
        for name, value in group.items():
            length = value / longest * width
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{row - 3}" fill="{_colour(name)}"/>')
            parts.append(_text(left + length + 5, y + row - 4, f"{value:.2f} ms"))
            y += row
        y += 12
    return _frame(left + width + 90, height, parts)


def lines(title, unit, series):
    """`series` is {contender: [(x, y)]}, all with the same x."""
    left, top, width, height = 60, 60, 480, 220
    right = max(x for points in series.values() for x, _ in points) or 1
    highest = max(y for points in series.values() for _, y in points) * 1.05
    parts = [_text(10, 20, title, extra='font-weight="bold"'), *_legend(series, left, 42)]
    for step in range(5):
        value = highest * step / 4
        y = top + height - height * step / 4
        parts.append(f'<line x1="{left}" y1="{y:.0f}" x2="{left + width}" y2="{y:.0f}" stroke="#ddd"/>')
        parts.append(_text(left - 6, y + 4, f"{value:.0f}", "end"))
    for x, _ in next(iter(series.values())):
        parts.append(_text(left + width * x / right, top + height + 18, str(x), "middle"))
    parts.append(_text(left + width, top - 6, unit, "end"))
    for name, points in series.items():
        path = " ".join(f"{left + width * x / right:.1f},{top + height - height * y / highest:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{_colour(name)}" stroke-width="2"/>')
    return _frame(left + width + 40, top + height + 40, parts)


def _frame(width, height, parts):
    body = "\n".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n')
