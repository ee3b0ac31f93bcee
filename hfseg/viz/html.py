"""A page that is one file: styles, script, drawings and pictures inside, and a policy that forbids all else."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from hfseg.viz.style import inline_svg

TEMPLATES = Path(__file__).parent / "templates"
POLICY = (
    "default-src 'none'",
    "base-uri 'none'",
    "form-action 'none'",
    "img-src data:",
    "style-src 'unsafe-inline'",
)
"""What every page may load: the pictures and styles that stand in it."""


@dataclass(frozen=True)
class Plot:
    """A figure as a piece of a page, and the width in px at which its text is easily read."""

    title: str
    svg: Markup
    width: int


def plot(name: str, figure: Figure) -> Plot:
    """Make a figure a piece of a page; its ids begin with `name`, its title is what a screen reader says."""
    title = figure.get_suptitle().replace("\n", " ")
    width_px = round(112 * figure.get_size_inches()[0])
    return Plot(title, Markup(inline_svg(figure, name, described=title)), width_px)


def render_page(
    template: str, *, styles: Sequence[str] = (), scripts: Sequence[str] = (), live: bool = False, **values: Any
) -> str:
    """Write a page that extends `base.html.j2`: what comes in `values` is escaped, unless it is `Markup`.

    `styles` and `scripts` are files of `templates/` that come after `base.css` and `base.js`. The content policy lets
    in what stands in the file itself, its one script by hash; a `live` page may also ask the server it came from.
    """
    script = _joined("base.js", *scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = [*POLICY, f"script-src 'sha256-{digest}'", *(["connect-src 'self'"] if live else [])]
    style = Markup(_joined("base.css", *styles))
    return (
        _environment()
        .get_template(template)
        .render(policy=Markup("; ".join(rules)), style=style, script=Markup(script), live=live, **values)
    )


def render_part(template: str, **values: Any) -> Markup:
    """Write a piece of a page, escaped like the page itself."""
    return Markup(_environment().get_template(template).render(values))


@cache
def _environment() -> Environment:
    """Give the environment of all templates: escaping, and an error for what is not defined."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _joined(*names: str) -> str:
    return "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names)
