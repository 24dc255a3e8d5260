"""Answers of a language model on disk, found again by what was asked."""

import hashlib
import json
import os
from collections.abc import Mapping
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
        self._known: dict[str, str] | None = None
        self._lock = Lock()

    @property
    def known(self) -> dict[str, str]:
        """What was answered, by key."""
        if self._known is None:
            self._known = self._read()
        return self._known

    def keep(self, key: str, answer: str) -> None:
        """Write an answer before anything else happens to it."""
        line = json.dumps({"key": key, "answer": answer}, ensure_ascii=False).encode(errors="replace") + b"\n"
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+", buffering=0) as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else b"\n" + line  # after half a line
                file.write(line)
            self.known[key] = answer

    def _read(self) -> dict[str, str]:
        known: dict[str, str] = {}
        if self.path.is_file():
            with self.path.open("rb") as file:
                for line in file:
                    try:
                        kept = json.loads(line)
                        known[kept["key"]] = kept["answer"]
                    except (ValueError, KeyError, TypeError):
                        continue
        return known
