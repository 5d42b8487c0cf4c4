"""Values with their intervals as an SVG that a browser shows as it is: a line of dots for each row."""

from html import escape

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"]  # told apart also by those who see few colours
LEFT, RIGHT, TOP, LINE = 250, 30, 66, 24
WIDTH = 800


def ticks(low, high):
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500) if (high - low) / step <= 9)
    first = int(low // step) * step
    return [first + step * number for number in range(int((high - first) // step) + 2)]


def dots(title, axis, rows):
    """`rows`: (label, {series: (value, low, high)}); a label alone is a heading."""
    found = [point for _, points in rows for point in points.values()]
    marks = ticks(min(low for _, low, _ in found), max(high for _, _, high in found))
    at = lambda x: LEFT + (x - marks[0]) / (marks[-1] - marks[0]) * (WIDTH - LEFT - RIGHT)
    bottom = TOP + LINE * len(rows)
    names = list(dict.fromkeys(name for _, points in rows for name in points))
    svg = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 48}" font-family="sans-serif" font-size="13">',
           f'<rect width="{WIDTH}" height="{bottom + 48}" fill="#fff"/>',
           f'<text x="{WIDTH / 2}" y="22" text-anchor="middle" font-size="15">{escape(title)}</text>']  # fmt: skip
    for index, name in enumerate(names):
        x = LEFT + 180 * index
        svg.append(f'<circle cx="{x}" cy="43" r="4" fill="{COLOURS[index]}"/><text x="{x + 10}" y="47">{escape(name)}</text>')
    for mark in marks:
        svg.append(f'<path d="M{at(mark):.1f} {TOP - 8}V{bottom}" stroke="#ddd"/>')
        svg.append(f'<text x="{at(mark):.1f}" y="{bottom + 17}" text-anchor="middle">{mark}</text>')
    svg.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{bottom + 38}" text-anchor="middle">{escape(axis)}</text>')
    for number, (label, points) in enumerate(rows):
        y = TOP + LINE * number + 8
        weight = "normal" if points else "bold"
        svg.append(f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end" font-weight="{weight}">{escape(label)}</text>')
        for name, (value, low, high) in points.items():
            colour = COLOURS[names.index(name)]
            svg.append(f'<path d="M{at(low):.1f} {y}H{at(high):.1f}" stroke="{colour}" stroke-width="2"/>')
            svg.append(f'<circle cx="{at(value):.1f}" cy="{y}" r="4" fill="{colour}"/>')
    return "\n".join([*svg, "</svg>"]) + "\n"
