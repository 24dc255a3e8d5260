"""A language model's answers and refusals on disk, looked up by request."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any


def request_key(request: Mapping[str, Any]) -> str:
    """Return a key that depends on model, messages and parameters only, not on their order or the process."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class Answers:
    """An append-only file with one JSON line per answer, written as soon as it arrives.

    A line cut short by a kill is skipped, and its prompt asked again. Several threads may write at the same time; on a
    local disk, so may several processes.

    Args:
        path: the file, created with the first answer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: tuple[dict[str, str], dict[str, str]] | None = None
        self._lock = Lock()

    @property
    def known(self) -> dict[str, str]:
        """The answers, by key."""
        return self._read()[0]

    @property
    def refused(self) -> dict[str, str]:
        """The reasons why requests will never be answered, by key."""
        return self._read()[1]

    def keep(self, key: str, answer: str) -> None:
        """Write an answer to disk, and keep it."""
        self._write({"key": key, "answer": answer})
        self.known[key] = answer

    def refuse(self, key: str, reason: str) -> None:
        """Write why a request will never be answered."""
        self._write({"key": key, "refused": reason})
        self.refused[key] = reason

    def _write(self, kept: Mapping[str, str]) -> None:
        line = json.dumps(kept, ensure_ascii=False).encode(errors="replace") + b"\n"
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+", buffering=0) as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else b"\n" + line  # after a line cut short
                file.write(line)

    def _read(self) -> tuple[dict[str, str], dict[str, str]]:
        if self._kept is None:
            answers: dict[str, str] = {}
            refused: dict[str, str] = {}
            for line in self._lines():
                try:
                    kept = json.loads(line)
                    side, field = (refused, "refused") if "refused" in kept else (answers, "answer")
                    side[kept["key"]] = kept[field]
                except (ValueError, KeyError, TypeError):
                    continue
            self._kept = answers, refused
        return self._kept

    def _lines(self) -> Iterator[bytes]:
        if self.path.is_file():
            with self.path.open("rb") as file:
                yield from file
