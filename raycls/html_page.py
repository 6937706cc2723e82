"""What raycls's pages have in common: their templates' settings, and the look of house.css.

    templates("raycls.training.report").get_template("page.html.j2").render(…)

A template says `{% include "house.css" %}` within its style element.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def templates(package: str) -> Environment:
    """The templates that lie in a package; an undefined name in one is an error, and text is escaped."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=ChoiceLoader([PackageLoader(package, ""), PackageLoader("raycls", "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
