"""A language model's answers and refusals on disk, looked up by request."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from ard.files import turn


def request_key(request: Mapping[str, Any]) -> str:
    """Return a key that depends on model, messages and parameters only, not on their order or the process."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class Answers:
    """An append-only file with one JSON line per answer, written as soon as it arrives.

    A line cut short by a kill is skipped, and its prompt asked again. Several threads and processes may write at the
    same time.

    Args:
        path: the file, created with the first answer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, str] = {}
        """The answers, by key, as of the last :meth:`read`."""
        self.refused: dict[str, str] = {}
        """The reasons why requests will never be answered, by key."""
        self._num_read = 0
        self._lock = Lock()

    def read(self) -> None:
        """Read what this process and others have written since the last time."""
        with self._lock:
            for line in self._new_lines():
                try:
                    kept = json.loads(line)
                    side, field = (self.refused, "refused") if "refused" in kept else (self.known, "answer")
                    side[kept["key"]] = kept[field]
                except (ValueError, KeyError, TypeError):
                    continue

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from asking, and know what they were answered: what is shared is asked for once."""
        with turn(self.path.with_suffix("")):  # another lock than that of a line, which others go on writing
            self.read()
            yield

    def keep(self, key: str, answer: str) -> None:
        """Write an answer to disk, and keep it."""
        self.keep_all({key: answer})

    def keep_all(self, answers: Mapping[str, str]) -> None:
        """Write answers that came together to disk, and keep them."""
        self._write([{"key": key, "answer": answer} for key, answer in answers.items()])
        self.known.update(answers)

    def refuse(self, key: str, reason: str) -> None:
        """Write why a request will never be answered."""
        self._write([{"key": key, "refused": reason}])
        self.refused[key] = reason

    def _write(self, kept: Sequence[Mapping[str, str]]) -> None:
        lines = b"".join(json.dumps(one, ensure_ascii=False).encode(errors="replace") + b"\n" for one in kept)
        with self._lock, turn(self.path, of_each_rank=True), self.path.open("ab+", buffering=0) as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                lines = lines if file.read(1) == b"\n" else b"\n" + lines  # after a line cut short
            file.write(lines)

    def _new_lines(self) -> Iterator[bytes]:
        if self.path.is_file():
            with self.path.open("rb") as file:
                file.seek(self._num_read)
                for line in file:
                    yield line
                    if line.endswith(b"\n"):  # or it is being written
                        self._num_read += len(line)
