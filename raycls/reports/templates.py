"""Provides the Jinja2 environment of the HTML pages, which share the style `page.css`.

    environment().get_template("model_page.html.j2").render(…)

A template includes the style with `{% include "page.css" %}` inside its style element.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def environment() -> Environment:
    """Return the environment of this package's templates. It escapes text, and an undefined name is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("raycls.reports", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
