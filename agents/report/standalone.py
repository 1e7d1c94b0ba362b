"""A chart as an SVG file of its own: with its title, its colours for light and dark, and nothing from elsewhere."""

from __future__ import annotations

from agents.report.markup import Markup, tag
from agents.report.style import COLOURS, DRAWING

__all__ = ["svg_file"]

_HEAD, _SIDE = 52, 10
_FONT = """
svg { font-family: ui-sans-serif, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
svg .title { font-size: 15px; font-weight: 600; fill: var(--ink); }
svg .caption { font-size: 12px; fill: var(--soft); }
.paper { fill: var(--bg); }
"""


def svg_file(drawing: Markup, *, title: str, caption: str, size: tuple[int, int]) -> str:
    """The file's text.

    Args:
        drawing: elements, in the coordinates of ``size``.
        caption: a line below the title.
    """
    width, height = size[0] + 2 * _SIDE, size[1] + _HEAD
    return tag(
        "svg",
        tag("title", title),
        tag("style", Markup(COLOURS + DRAWING + _FONT)),
        tag("rect", class_="paper", x=0, y=0, width=width, height=height),
        tag("text", title, class_="title", x=_SIDE + 2, y=22),
        tag("text", caption, class_="caption", x=_SIDE + 2, y=40),
        tag("g", drawing, transform=f"translate({_SIDE} {_HEAD})"),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
    )
