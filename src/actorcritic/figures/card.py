"""A card in a notebook: a title, a sentence, a few facts, and curves as one small SVG."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np

from actorcritic.figures.style import Series, colours

WIDTH, HEIGHT, LEFT, BOTTOM = 440, 120, 46, 16  # pixels; the last two are the room for numbers


def card(title: str, sentence: str, facts: Mapping[str, str], picture: str = "") -> str:
    """HTML without scripts and without anything outside it."""
    rows = "".join(
        f'<tr><td style="text-align:left;opacity:.7">{html.escape(name)}</td>'
        f'<td style="text-align:left">{html.escape(value.removesuffix(f" {name}"))}</td></tr>'
        for name, value in facts.items()
    )
    said = f"<div>{html.escape(sentence)}</div>" if sentence else ""
    return (
        '<div style="max-width:46em;border:1px solid #8888;border-radius:6px;padding:.6em .9em">'
        f"<b>{html.escape(title)}</b>{said}<table>{rows}</table>{picture}</div>"
    )


def curves(series: Sequence[Series]) -> str:
    """Curves with their bands as SVG; "" where there is nothing to draw."""
    drawn = [one for one in series if np.isfinite(one.y).sum() > 1]
    if not drawn:
        return ""
    x = np.concatenate([one.x[np.isfinite(one.y)] for one in drawn])
    y = np.concatenate([one.y[np.isfinite(one.y)] for one in drawn])
    low, high, last = float(y.min()), float(y.max()), float(x.max())
    tall = (high - low) or 1.0

    def points(xs: np.ndarray, ys: np.ndarray) -> str:
        known = np.isfinite(ys)
        across = LEFT + (WIDTH - LEFT - 4) * xs[known] / (last or 1.0)
        down = 4 + (HEIGHT - BOTTOM - 8) * (1 - (np.clip(ys[known], low, high) - low) / tall)
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, down, strict=True))

    parts = []
    palette = colours(len(series))
    for one in drawn:
        colour = one.colour or palette[list(series).index(one)]
        if one.low is not None and one.high is not None and np.isfinite(one.low).any():
            band = points(np.r_[one.x, one.x[::-1]], np.r_[one.low, one.high[::-1]])
            parts.append(f'<polygon points="{band}" fill="{colour}" opacity=".2"/>')
        line = points(one.x, one.y)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
    texts = [
        (LEFT - 6, 12, f"{high:.4g}"),
        (LEFT - 6, HEIGHT - BOTTOM - 2, f"{low:.4g}"),
        (WIDTH - 4, HEIGHT - 3, f"{last:,.0f} steps"),
    ]
    parts += [
        f'<text x="{a}" y="{b}" text-anchor="end" font-size="11" fill="currentColor">{text}</text>'
        for a, b, text in texts
    ]
    if len(series) > 1:
        names = "".join(
            f'<span style="color:{colour}">━</span> {html.escape(one.label)}&emsp;'
            for one, colour in zip(series, palette, strict=True)
        )
        parts.append(f"</svg><div>{names}</div>")
    else:
        parts.append("</svg>")
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" style="max-width:100%;width:{WIDTH}px" role="img">'
    return head + "".join(parts)
