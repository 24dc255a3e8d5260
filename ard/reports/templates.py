"""The templates of the pages: the report's, the study's and the explorer's, which share one frame, ``page.html``."""

from functools import cache

import jinja2


@cache
def templates(package: str = "ard.reports") -> jinja2.Environment:
    """Return the templates of a package's pages, which may extend the report's. What they are given is escaped."""
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(one, "template") for one in (package, "ard.reports")]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
