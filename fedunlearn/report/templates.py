"""The templates of pages that are one HTML file each, with their styles inside."""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def fill_template(name: str, styles: Sequence[str], **values: Any) -> str:
    """Fill a template of this folder; a value that it names and does not get is an error.

    Args:
        name: of the template.
        styles: names of style sheets; the template gets them, one after the other, as ``style``.
        **values: that the template shows, escaped unless they are markup.
    """
    loader = PackageLoader("fedunlearn", "report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup("".join(loader.get_source(environment, sheet)[0] for sheet in styles))
    return environment.get_template(name).render(style=style, **values)
