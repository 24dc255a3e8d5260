"""The processes of a Trainer, and how they share work: the first hands it out, and all of them do it."""

from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

from ard.console import Progress
from ard.types import UserError

Batch = TypeVar("Batch", bound=Sized)
Thing = TypeVar("Thing")


class Ranks(NamedTuple):
    """The processes of a Trainer; by default there is one.

    While the first one works alone (:meth:`leading`), the others wait for tasks (:meth:`follow`). What all of them
    should do, it hands out by :meth:`together`.
    """

    rank: int = 0
    size: int = 1
    barrier: Callable[[], object] = lambda: None
    broadcast: Callable[[Any, int], Any] = lambda value, rank: value
    """Returns the value that a rank gives, on all ranks."""
    num_workers: int = 0  # of each, to decode clips

    def mine(self, things: Sequence[Thing]) -> Sequence[Thing]:
        """Return this rank's share, every n-th."""
        return things[self.rank :: self.size]

    @staticmethod
    def joined(shares: Sequence[Sequence[Thing]]) -> list[Thing]:
        """Put the shares of all ranks together again, in the order of what was shared."""
        return [share[turn] for turn in range(max(map(len, shares))) for share in shares if turn < len(share)]

    def share(self, batches: Sequence[Batch], description: str) -> Iterator[Batch]:
        """Yield this rank's share, every n-th; the first one shows progress, as if the others were as far."""
        total = sum(map(len, batches))
        with Progress(description, total, disable=self.rank > 0) as progress:
            for batch in self.mine(batches):
                yield batch
                progress.advance(min(len(batch) * self.size, total - progress.done))

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Work as the first rank; at the end the others stop following, with an error if the block fails."""
        try:
            yield
        except Exception as error:
            with suppress(UserError):  # the reason is another one
                self._tell(_reason(error), 0)
            raise
        self._tell(None, 0)

    def together(self, work: Callable[..., Any], *task: Any) -> list[Any]:
        """Have every rank do its share of a task, the first by ``work``; return what each of them returns.

        Args:
            work: does the share of this rank.
            task: what it is given; it is sent to the others by pickle.

        Raises:
            UserError: if another rank fails.
        """
        self._tell(task, 0)
        error, reasons, values = self._do(work, task)
        if error is not None:
            raise error
        for rank, reason in enumerate(reasons):
            if reason is not None:
                raise UserError(f"rank {rank} of {self.size} failed ({reason}): what is finished is kept: run it again")
        return values

    def follow(self, work: Callable[..., object]) -> None:
        """Do this rank's share of each task, by ``work``, until the first rank needs no more help.

        Raises:
            UserError: if another rank failed.
        """
        error: Exception | None = None
        while isinstance(task := self._tell(None, 0), tuple):
            error, *_ = self._do(work, task)
        if error is not None:
            raise error
        if task is not None:
            raise UserError(f"rank 0 of {self.size} failed ({task}): what is finished is kept: run it again")

    def _do(
        self, work: Callable[..., Any], task: tuple[Any, ...]
    ) -> tuple[Exception | None, list[str | None], list[Any]]:
        """Do a share of a task; return why that failed, and why it did on each rank, or else what each returns."""
        error, value = None, None
        try:
            value = work(*task)
        except Exception as failed:
            error = failed
        reasons = [self._tell(error and _reason(error), rank) for rank in range(self.size)]
        failed_somewhere = any(reason is not None for reason in reasons)
        return error, reasons, [] if failed_somewhere else [self._tell(value, rank) for rank in range(self.size)]

    def _tell(self, value: Any, rank: int) -> Any:
        """Return the value that a rank tells all.

        Raises:
            UserError: if one is gone.
        """
        try:
            return self.broadcast(value, rank)
        except RuntimeError as error:
            raise UserError(
                f"rank {self.rank} of {self.size} has lost another ({' '.join(str(error).split())[:200]}): "
                "see why that one ended; what is finished is kept: run it again"
            ) from error


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else repr(error)
