"""The pages of a profile: templates beside this file, filled with everything escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distlab.figures.figure import Figure


def render(template: str, **values: Any) -> str:
    """A page. Figures are put in as they are, all other text escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    def figure(one: Figure) -> Markup:
        caption = Markup("<figcaption>{}</figcaption>").format(one.caption)
        return Markup("<figure>{}{}</figure>").format(Markup(one.svg), caption)

    def ms(seconds: float | None) -> Markup:
        return escape("" if seconds is None else f"{seconds * 1e3:,.2f}")

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "ms": ms}
    return environment.get_template(template).render(**values)
