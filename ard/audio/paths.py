"""The files under a folder, and names of files as text."""

import os
import unicodedata
from pathlib import Path


def files_under(root: Path) -> tuple[list[Path], list[OSError]]:
    """Return all files under a folder in the order of their names, and what could not be looked into.

    Linked folders are followed, each real folder once: links that lead back do not loop. A folder that lies under the
    root itself is listed where it lies, not by a link to it.
    """
    files: list[Path] = []
    errors: list[OSError] = []
    visited: set[tuple[int, int]] = set()
    starts = [os.fspath(root)]
    while starts:
        links: list[str] = []
        for folder, subfolders, names in (found for start in starts for found in os.walk(start, onerror=errors.append)):
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
    r"""Return a name as text that any file and terminal can hold: on one line, and valid Unicode.

    Control characters, backslashes and the bytes of a name that is not UTF-8 become Python's escapes, so that the text
    tells the name: ``caf\351.wav`` becomes ``caf\udce9.wav``, in which ``dce9`` stands for the byte ``e9``.
    """
    return "".join(
        char.encode("unicode_escape").decode() if char == "\\" or _is_control(char) else char for char in name
    )


def is_key(name: str) -> bool:
    """Say whether WebDataset keeps a key: a dot ends one, and what begins with two underscores may be passed over."""
    return bool(name) and "." not in name and not name.startswith("__") and not any(map(_is_control, name))


def id_of(name: str) -> str:
    """Return the id of a clip of that name: printable, and a key that WebDataset keeps. Dots become underscores."""
    key = printable(name).replace(".", "_")
    return rf"\x5f{key[1:]}" if key.startswith("__") else key


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cs")
