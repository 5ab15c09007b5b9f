"""The book's figures, drawn by code: plots (matplotlib) and diagrams (plain SVG).

Each function returns a `Figure`, which a notebook shows as inline SVG. Text and lines take the colour of the
page (`currentColor`), so that a figure can be read in the light and the dark theme; colour never carries a
meaning alone.
"""

from distlab.figures.figure import Figure
from distlab.figures.plots import Series, plot

__all__ = ["Figure", "Series", "plot"]
