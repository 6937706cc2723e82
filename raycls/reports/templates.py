"""The Jinja2 environment of raycls's HTML pages: `page.css` is the style that they share.

    environment().get_template("model_page.html.j2").render(…)

A template says `{% include "page.css" %}` within its style element.
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
