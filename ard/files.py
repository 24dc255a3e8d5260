"""Claims on output folders: one process at a time writes to a folder, and touches nothing that others made."""

import os
import re
import shlex
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ard.console import at_work
from ard.types import UserError

LOCK = ".ard.lock"
"""The lock file of a claimed folder. It names the last owner; the kernel holds the lock, not the file's presence."""

PATIENCE_S = 0.5  # a process that only checks whether a folder is in use holds its lock for a moment
WAIT_S = 0.2  # between two looks at a folder or file that another process holds
PARTIAL = re.compile(r".+\.[0-9a-f]{12}\.partial")
TURN = re.compile(r"\..+\.lock")


class InUseError(UserError):
    """Another process holds a folder."""


def partial_path(path: Path, unique: str) -> Path:
    """Return where a file is written before it gets its name; ``unique`` is 12 hexadecimal digits."""
    partial = path.with_name(f"{path.name}.{unique}.partial")
    assert PARTIAL.fullmatch(partial.name)
    return partial


@contextmanager
def being_written(partial: Path) -> Iterator[None]:
    """Mark a half-written file as one that a living process writes, for as long as the block runs."""
    lock = FileLock(partial)
    with suppress(Timeout, OSError):  # without locks it is only not marked
        lock.acquire(timeout=0)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def turn(path: Path, *, of_each_rank: bool = False) -> Iterator[None]:
    """Wait until no other process works on a file that several cells share, and keep it to this one for the block.

    Whoever reads the file in its turn has all that others wrote to it. Of the ranks of one job the first waits for all,
    unless each has a turn of its own.
    """
    if not (of_each_rank or _is_first()):
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _held(FileLock(path.with_name(f".{path.name}.lock"), thread_local=False, is_singleton=True), path, wait=True):
        yield


def in_use(folder: Path) -> list[str]:
    """Return the names in a folder, except locks and the files that a killed process left half written."""
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.iterdir())
    return sorted(name for name in names if not (TURN.fullmatch(name) or PARTIAL.fullmatch(name)))


def refuse_inside(read: Path, out: Path) -> None:
    """Refuse an output folder that contains the folder being read, or is the same.

    Raises:
        UserError: if it does or is.
    """
    if Path(os.path.realpath(read)).is_relative_to(os.path.realpath(out)):
        raise UserError(f"folder {str(out)!r} holds what is read from {str(read)!r}: choose another --out")


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder that is not empty and was never claimed.

    Raises:
        UserError: if it is such a folder.
    """
    if in_use(folder) and not (folder / LOCK).is_file():
        raise UserError(f"folder {str(folder)!r} is in use, and not by this command: choose a new or empty one")


def accept(folder: Path) -> None:
    """Accept any folder."""


@contextmanager
def claim(*folders: Path, refuse: Callable[[Path], None] = accept, wait: bool = False) -> Iterator[None]:
    """Reserve folders, and everything below them, for this process until the block ends; create missing ones.

    This process may claim what it holds again. A killed process holds nothing. The half-written files that it left
    behind are removed. Of the ranks of one job the first claims for all.

    Args:
        folders: where files will be written.
        refuse: raises if a folder must not be written to; called before anything is created in it, and again once it
            is held.
        wait: wait for another process that holds a folder or one above it.

    Raises:
        InUseError: if another process holds a folder or one above it.
        UserError: if a folder cannot be written.
    """
    with ExitStack() as held:
        for folder in sorted({Path(os.path.realpath(folder)) for folder in folders if _is_first()}):
            held.enter_context(_claim(folder, refuse, wait=wait))
        yield


def _is_first() -> bool:
    """Whether this process is the first rank of its job, as Lightning's launchers, torchrun and SLURM tell it."""
    names = ("RANK",) if "RANK" in os.environ else ("NODE_RANK", "LOCAL_RANK", "SLURM_PROCID")
    return not any(int(os.environ.get(name, 0)) for name in names)


@contextmanager
def _claim(folder: Path, refuse: Callable[[Path], None], *, wait: bool) -> Iterator[None]:
    is_new = not os.path.lexists(folder)
    if not _lock(folder).is_locked:
        try:
            refuse(folder)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from error
        for above in folder.parents:
            if _lock(above).is_locked:
                break  # which holds everything below it
            if os.access(above / LOCK, os.W_OK):
                with _locked(above, wait=wait):  # for a moment, to see that nobody else holds it
                    pass
    with _locked(folder, wait=wait) as is_first:
        if is_first:
            refuse(folder)
            _sign(folder)
            _remove_partials(folder)
        try:
            yield
        finally:
            if is_first and not in_use(folder):
                _leave(folder, is_new)


@contextmanager
def _locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock of a folder; yield whether this process acquired it just now."""
    lock = _lock(folder)
    is_first = not lock.is_locked
    with _held(lock, folder, wait=wait):
        yield is_first


@contextmanager
def _held(lock: FileLock, path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of a folder, or of a file that several processes share."""
    try:
        try:
            lock.acquire(timeout=PATIENCE_S, poll_interval=0.02)
        except Timeout:
            try:
                text = Path(lock.lock_file).read_text(encoding="utf-8", errors="replace")
            except FileNotFoundError:  # it was released this moment
                text = ""
            holder = " ".join(text.split()) or "another process"
            if not wait:
                raise InUseError(
                    f"folder {str(path)!r} is in use by {holder}: wait until it ends, or choose another folder"
                ) from None
            with at_work(f"waiting for {holder}, which works on {str(path)!r}"):
                lock.acquire(poll_interval=WAIT_S)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield
    finally:
        lock.release()


def _lock(folder: Path) -> FileLock:
    """Return the one lock of a folder in this process; all threads hold it together."""
    return FileLock(folder / LOCK, thread_local=False, is_singleton=True)


def _sign(folder: Path) -> None:
    command = shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "ard"), *sys.argv[1:]])
    holder = f"process {os.getpid()} on {socket.gethostname()} ({command})\n"
    (folder / LOCK).write_text(holder, encoding="utf-8", errors="replace")


def _leave(folder: Path, is_new: bool) -> None:
    """Leave no trace where nothing was written; the lock goes while it is held, so that nobody takes it for theirs."""
    (folder / LOCK).unlink(missing_ok=True)
    if is_new:
        with suppress(OSError):  # half-written files of others
            folder.rmdir()


def _remove_partials(folder: Path) -> None:
    """Remove files that killed processes left half written."""
    for inside, _, files in os.walk(folder):
        for partial in (Path(inside, name) for name in files if PARTIAL.fullmatch(name)):
            with suppress(Timeout, OSError), FileLock(partial).acquire(timeout=0):
                partial.unlink(missing_ok=True)


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"folder {str(folder)!r} cannot be written ({error.strerror}): choose another")
