"""A connectivity graph as SVG, without a layout program: ends on a circle, connections as curved arrows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

STYLE = (
    "text{font:11px sans-serif}path{fill:none;stroke:#b58900;opacity:.7}path:hover{stroke:#dc322f;opacity:1}"
)
ARROW = (
    '<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0L8 4L0 8z" style="fill:#b58900;stroke:none"/></marker></defs>'
)


def svg(edges: Sequence[tuple[str, str, str]], alone: Sequence[str]) -> str:
    """The picture of (consumer, provider, label) edges; `alone` are ends to show even without an edge."""
    titles = sorted({*alone, *(title for edge in edges for title in edge[:2])})
    radius = max(120, 9 * len(titles))
    size = 2 * radius + 520
    spots = {title: _spot(at, len(titles), radius, size / 2) for at, title in enumerate(titles)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size:.0f} {size:.0f}"><style>{STYLE}</style>{ARROW}'
    ]
    parts += [
        _edge(spots[src], spots[dst], size / 2, f"{src} => {dst} : {label}") for src, dst, label in edges
    ]
    parts += [_node(title, spot, size / 2) for title, spot in spots.items()]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _spot(at: int, count: int, radius: float, middle: float) -> tuple[float, float]:
    angle = 2 * math.pi * at / max(count, 1) - math.pi / 2
    return middle + radius * math.cos(angle), middle + radius * math.sin(angle)


def _edge(begin: tuple[float, float], end: tuple[float, float], middle: float, title: str) -> str:
    # Curves lean to the middle, and to one side, so that there and back do not cover each other.
    bend = ((begin[0] + end[0]) / 4 + middle / 2, (begin[1] + end[1]) / 4 + middle / 2)
    side = ((end[1] - begin[1]) / 12, (begin[0] - end[0]) / 12)
    return (
        f'<path d="M{begin[0]:.1f} {begin[1]:.1f}Q{bend[0] + side[0]:.1f} {bend[1] + side[1]:.1f} '
        f'{end[0]:.1f} {end[1]:.1f}" marker-end="url(#a)"><title>{escape(title)}</title></path>'
    )


def _node(title: str, spot: tuple[float, float], middle: float) -> str:
    right = spot[0] >= middle
    anchor, shift = ("start", 8) if right else ("end", -8)
    ink = "#dc322f" if title.endswith("[External]") else "#268bd2"
    return (
        f'<circle cx="{spot[0]:.1f}" cy="{spot[1]:.1f}" r="4" fill="{ink}"/>'
        f'<text x="{spot[0] + shift:.1f}" y="{spot[1] + 4:.1f}" text-anchor="{anchor}">{escape(title)}</text>'
    )
