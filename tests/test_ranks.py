"""Ranks that share work: each does its part, all end if one fails, and every one says why."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ard.ranks import Ranks
from ard.types import UserError


class Threads:
    """Ranks in threads of this process; they meet at every broadcast, as processes do."""

    def __init__(self, size):
        self.values, self.meet = {}, threading.Barrier(size, timeout=20)
        self.ranks = [Ranks(rank, size, self.meet.wait, self.of(rank)) for rank in range(size)]

    def of(self, own):
        def broadcast(value, rank):
            if rank == own:
                self.values[rank] = value
            self.meet.wait()
            told = self.values[rank]
            self.meet.wait()
            return told

        return broadcast

    def run(self, lead, work):
        """Return the error of each rank, or None: the first leads, the others follow."""

        def of(ranks):
            def share(*task):
                return work(ranks, *task)

            try:
                if ranks.rank:
                    ranks.follow(share)
                else:
                    with ranks.leading():
                        lead(ranks, share)
            except Exception as error:
                return error

        with ThreadPoolExecutor(len(self.ranks)) as pool:
            return list(pool.map(of, self.ranks))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_batch_is_worked_on_once_and_each_task_is_whole_before_the_next(size):
    tasks, done = [[range(n, n + 2) for n in range(5)], [], [range(3)]], []

    def work(ranks, batches):
        for batch in ranks.share(batches, "numbers"):
            done.append((ranks.rank, batch))

    def lead(ranks, share):
        for task in tasks:
            ranks.together(share, task)
            assert sorted(batch.start for _, batch in done) == [batch.start for batch in task]
            assert all(task.index(batch) % size == rank for rank, batch in done)
            done.clear()

    assert Threads(size).run(lead, work) == [None] * size


@pytest.mark.parametrize("size", [1, 2, 3])
def test_what_ranks_return_is_put_together_in_the_order_of_what_was_shared(size):
    found = []
    work = lambda ranks, numbers: [number**2 for number in ranks.mine(numbers)]  # noqa: E731
    Threads(size).run(lambda ranks, share: found.append(Ranks.joined(ranks.together(share, range(7)))), work)
    assert found == [[0, 1, 4, 9, 16, 25, 36]]


def test_all_ranks_end_if_one_fails_at_a_task():
    broken = ValueError("no memory")

    def work(ranks, batches):
        if ranks.rank == 1:
            raise broken

    first, second, third = Threads(3).run(lambda ranks, share: ranks.together(share, []), work)
    assert str(first) == "rank 1 of 3 failed (ValueError('no memory')): what is finished is kept: run it again"
    assert second is broken
    assert isinstance(third, UserError)
    assert "rank 0 of 3 failed (rank 1 of 3 failed (ValueError('no memory'))" in str(third)


def test_all_ranks_end_if_the_first_fails_by_itself_or_at_a_task():
    def lead(ranks, share):
        ranks.together(share, [])
        raise UserError("the endpoint is gone")

    def work(ranks, batches):
        if ranks.rank == 0:
            raise UserError("this clip is gone")

    for working, reason in ((lambda *_: None, "the endpoint is gone"), (work, "this clip is gone")):
        first, second = Threads(2).run(lead, working)
        assert str(first) == reason
        assert str(second) == f"rank 0 of 2 failed ({reason}): what is finished is kept: run it again"


def test_a_rank_that_is_gone_is_missed_in_one_line():
    def broadcast(value, rank):
        raise RuntimeError("Connection closed\nby peer")

    ranks = Ranks(1, 2, lambda: None, broadcast)
    with pytest.raises(UserError, match=r"^rank 1 of 2 has lost another \(Connection closed by peer\): see why that"):
        ranks.follow(lambda: None)
    with pytest.raises(UserError, match="has lost another"), ranks.leading():
        ranks.together(lambda: None)
