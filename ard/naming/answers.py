"""Answers of a language model on disk, and its refusals, found again by what was asked."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any


def request_key(request: Mapping[str, Any]) -> str:
    """Return the same key for the same model, messages and parameters, whatever their order or the process."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class Answers:
    """An append-only file of one JSON line an answer, each written at once when it has come.

    What a killed process wrote by half is skipped and asked again. Several threads may keep answers at a time, and on
    a local disk several processes.

    Args:
        path: the file; it comes to be with the first answer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: tuple[dict[str, str], dict[str, str]] | None = None
        self._lock = Lock()

    @property
    def known(self) -> dict[str, str]:
        """What was answered, by key."""
        return self._read()[0]

    @property
    def refused(self) -> dict[str, str]:
        """The reasons of what will never be answered, by key."""
        return self._read()[1]

    def keep(self, key: str, answer: str) -> None:
        """Write an answer before anything else happens to it."""
        self._write({"key": key, "answer": answer})
        self.known[key] = answer

    def refuse(self, key: str, reason: str) -> None:
        """Write why a question will never be answered."""
        self._write({"key": key, "refused": reason})
        self.refused[key] = reason

    def _write(self, kept: Mapping[str, str]) -> None:
        line = json.dumps(kept, ensure_ascii=False).encode(errors="replace") + b"\n"
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+", buffering=0) as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else b"\n" + line  # after half a line
                file.write(line)

    def _read(self) -> tuple[dict[str, str], dict[str, str]]:
        if self._kept is None:
            known: dict[str, str] = {}
            refused: dict[str, str] = {}
            for line in self._lines():
                try:
                    kept = json.loads(line)
                    side, what = (refused, "refused") if "refused" in kept else (known, "answer")
                    side[kept["key"]] = kept[what]
                except (ValueError, KeyError, TypeError):
                    continue
            self._kept = known, refused
        return self._kept

    def _lines(self) -> Iterator[bytes]:
        if self.path.is_file():
            with self.path.open("rb") as file:
                yield from file
