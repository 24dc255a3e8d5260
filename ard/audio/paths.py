"""The files under a folder, and file names as text."""

import os
import unicodedata
from pathlib import Path


def files_under(root: Path) -> tuple[list[Path], list[OSError]]:
    """Return all files under a folder in the order of their names, and the errors of folders that could not be read.

    Linked folders are followed, each real folder once, so that links cannot loop. A folder under the root is listed at
    its own place, not at a link to it.
    """
    files: list[Path] = []
    errors: list[OSError] = []
    visited: set[tuple[int, int]] = set()
    starts = [os.fspath(root)]
    while starts:
        links: list[str] = []
        for folder, subfolders, names in (entry for start in starts for entry in os.walk(start, onerror=errors.append)):
            real = os.stat(folder)
            if (real.st_dev, real.st_ino) in visited:
                subfolders.clear()
                continue
            visited.add((real.st_dev, real.st_ino))
            links += (path for name in subfolders if os.path.islink(path := os.path.join(folder, name)))
            files += (Path(folder, name) for name in names)
        starts = sorted(links)
    return sorted(files), sorted(errors, key=lambda error: str(error.filename))


def printable(name: str) -> str:
    r"""Return a name as text that any file and terminal can hold: one line of valid Unicode.

    Control characters, backslashes and bytes that are not UTF-8 become Python's escapes, so that the text still
    identifies the name: ``caf\351.wav`` becomes ``caf\udce9.wav``, where ``dce9`` stands for the byte ``e9``.
    """
    return "".join(
        char.encode("unicode_escape").decode() if char == "\\" or _is_control(char) else char for char in name
    )


def is_key(name: str) -> bool:
    """Say whether WebDataset keeps a name as key: a dot would end it, and two leading underscores may hide it."""
    return bool(name) and "." not in name and not name.startswith("__") and not any(map(_is_control, name))


def id_of(name: str) -> str:
    """Return a clip's id made of a name: printable, and a key that WebDataset keeps. Dots become underscores."""
    key = printable(name).replace(".", "_")
    return rf"\x5f{key[1:]}" if key.startswith("__") else key


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cs")
