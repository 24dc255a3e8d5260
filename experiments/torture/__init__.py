"""What goes wrong at users' desks, tried on purpose: `make torture`."""

from importlib import import_module
from importlib.util import find_spec

from experiments.torture.case import Case

SECTIONS = {
    section: module
    for section in ("disk", "audio", "names", "robust")
    if find_spec(module := f"experiments.torture.{section}")
}


def cases_of(module: str) -> list[Case]:
    """Return the cases of a section's module."""
    cases: list[Case] = import_module(module).CASES
    return cases
