"""Classes by their path, of this package and of a user's own modules."""

import importlib

from ard.types import UserError


def import_class(path: str) -> type:
    """Return the class that a ``class_path`` names.

    Raises:
        UserError: if there is none.
    """
    module, _, name = path.rpartition(".")
    try:
        target = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"class_path {path!r} names no class ({error}): write it as package.module.Class, and put the folder of a "
            "module of your own into PYTHONPATH"
        ) from error
    if not isinstance(target, type):
        raise UserError(f"class_path {path!r} names no class but {target!r}: write it as package.module.Class")
    return target
