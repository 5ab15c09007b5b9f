"""A figure: SVG with alternative text and a caption, shown inline. And the pen that draws diagrams."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

BLUE, RED, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#b5739a"
"""Colours of Okabe and Ito (the last one darkened), each at 3:1 or more on a white and on a black page."""

FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"


@dataclass(frozen=True)
class Figure:
    """An inline figure. `alt` says in words what it shows, `caption` what was drawn and from which data."""

    svg: str
    alt: str
    caption: str

    def _repr_html_(self) -> str:
        caption = f'<figcaption style="font-weight:400">{escape(self.caption)}</figcaption>'
        return f'<figure class="distlab-figure">{self.svg}{caption}</figure>'

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"


def open_tag(width: float, height: float, alt: str) -> str:
    """The `<svg>` tag: it grows to 1.25 of its natural size and shrinks with the page.

    Where a content security policy drops the style, the fixed height still keeps it inside the page.
    """
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="100%" '
        f'height="{height:g}" style="max-width:{1.25 * width:g}px;height:auto;display:block;margin:auto" '
        f'role="img" aria-label="{escape(alt)}" font-family="{FONT}">'
    )


@dataclass
class Pen:
    """Draws on a canvas of `width` by `height` pixels. Keep to 440 wide: a phone shows that at 0.8."""

    width: float
    height: float
    marks: list[str] = field(default_factory=list)

    def rect(
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        colour: str = "",
        *,
        opacity: float = 0.25,
        dash: bool = False,
        bold: bool = False,
        rounded: float = 3,
    ) -> None:
        """A box with an outline; filled with a tint of `colour` if one is given."""
        fill = f'fill="{colour}" fill-opacity="{opacity:g}"' if colour else 'fill="none"'
        dashes = ' stroke-dasharray="4 3"' if dash else ""
        self.marks.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{rounded:g}" {fill} '
            f'stroke="{colour or "currentColor"}" stroke-width="{2.2 if bold else 1}"{dashes}/>'
        )

    def text(
        self, x: float, y: float, words: str, *, size: float = 13, anchor: str = "middle", bold: bool = False
    ) -> None:
        """Words with their baseline at y."""
        weight = ' font-weight="600"' if bold else ""
        self.marks.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" fill="currentColor"'
            f"{weight}>{escape(words)}</text>"
        )

    def line(
        self,
        x1: float,
        y1: float,
        x2: float,
        y2: float,
        *,
        width: float = 1.2,
        colour: str = "currentColor",
        dash: bool = False,
    ) -> None:
        dashes = ' stroke-dasharray="4 3"' if dash else ""
        self.marks.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            f'stroke-width="{width:g}"{dashes}/>'
        )

    def arrow(
        self, x1: float, y1: float, x2: float, y2: float, *, width: float = 1.4, colour: str = "currentColor"
    ) -> None:
        """A line with a head at its second end."""
        self.line(x1, y1, x2, y2, width=width, colour=colour)
        length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5 or 1
        ux, uy = (x2 - x1) / length, (y2 - y1) / length
        points = [(x2, y2)] + [(x2 - 7 * ux - s * 3.5 * uy, y2 - 7 * uy + s * 3.5 * ux) for s in (1, -1)]
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.marks.append(f'<polygon points="{corners}" fill="{colour}"/>')

    def figure(self, alt: str, caption: str) -> Figure:
        svg = open_tag(self.width, self.height, alt) + "".join(self.marks) + "</svg>"
        return Figure(svg, alt, caption)
