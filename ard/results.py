"""Results of evaluations, and the one way to write files: whole or not at all."""

import json
import math
import os
import subprocess
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
import xxhash
from jaxtyping import Float, Int, Shaped
from scipy.stats import DegenerateDataWarning, binomtest, bootstrap

from ard.files import being_written, partial_path

SEAL = "seal"  # the key of a checksum in JSON

Better = Literal["higher", "lower", "neither"]

OWN_METHOD = "AR&D"
"""The method that a run is about; all other methods are compared with it."""

Control = Literal["untrained", "tokens"]
"""A kind of dictionary that was never trained."""

CONTROL_METHODS: Mapping[str, str] = {"untrained": "Untrained SAE", "tokens": "Random tokens"}
"""The methods of these dictionaries."""


DRAWN_AT_ONCE = 2**21  # samples of resamples in memory: 50 MB


@dataclass(frozen=True)
class Figure:
    """One number of a result, with its 95 % interval, sample count, unit, and which way is better.

    ``over`` says what the interval is over: the things that were resampled, such as clips, concepts or draws. It says
    nothing about other sources of variation. For a control, neither way is better: it is only there for comparison.
    ``spread`` is the standard deviation of the samples behind a mean, for tables where the paper prints it after the
    figure.
    """

    value: float
    low: float
    high: float
    n: int
    unit: str
    better: Better = "higher"
    spread: float | None = None
    over: str | None = None

    @classmethod
    def estimate(
        cls,
        samples: Shaped[np.ndarray, "n ..."],
        statistic: Callable[[Shaped[np.ndarray, "n ..."]], float],
        unit: str,
        *,
        over: str,
        seed: int,
        groups: Shaped[np.ndarray, " n"] | None = None,
        num_resamples: int = 1000,
        better: Better = "higher",
    ) -> "Figure":
        """Return a statistic with its 95 % interval over the samples.

        The interval is the percentile bootstrap's; the mean of zeros and ones has Wilson's, or Clopper and Pearson's
        where all are equal, which is not of width 0. A maximum or minimum has none (NaN): the bootstrap's would end at
        the value itself. Nor has a single sample. Without samples, every number is NaN.

        Args:
            samples: what the statistic is of.
            statistic: takes such samples.
            unit: the statistic's unit.
            over: what the samples are, in the plural.
            seed: seed of the resamples.
            groups: the group of each sample, such as its speaker. Whole groups are then resampled, and ``over`` names
                them.
            num_resamples: number of resamples.
            better: which way is better.
        """
        if len(samples) == 0:
            return cls(math.nan, math.nan, math.nan, 0, unit, better, over=over)
        low, high = _interval(samples, statistic, groups, num_resamples, seed)
        return cls(float(statistic(samples)), low, high, len(samples), unit, better, over=over)

    @classmethod
    def resampled(cls, values: Float[np.ndarray, " resamples"], n: int, unit: str, *, over: str) -> "Figure":
        """Return the first value, with the 95 % percentile interval of the others, which are its bootstrap resamples.

        With a single sample there is nothing to resample, and the interval is NaN.
        """
        low, high = np.quantile(values[1:], [0.025, 0.975]).tolist() if n > 1 else (math.nan, math.nan)
        return cls(float(values[0]), low, high, n, unit, over=over)

    @classmethod
    def pooled(cls, draws: Sequence["Figure"]) -> "Figure":
        """Return the mean of a figure over draws, their standard deviation, and from the lowest to the highest.

        A single draw stays as it is.
        """
        if len(draws) == 1:
            return draws[0]
        values = [figure.value for figure in draws]
        mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
        unit = draws[0].unit
        return cls(mean, min(values), max(values), len(draws), unit, spread=spread, over="draws, lowest to highest")

    def of_control(self) -> "Figure":
        """Return the figure as that of a control, for which neither way is better."""
        return replace(self, better="neither")


def _interval(
    samples: Shaped[np.ndarray, "n ..."],
    statistic: Callable[[Shaped[np.ndarray, "n ..."]], float],
    groups: Shaped[np.ndarray, " n"] | None,
    num_resamples: int,
    seed: int,
) -> tuple[float, float]:
    members = None if groups is None else _members(groups)
    num_groups = len(samples) if members is None else len(members)
    is_share = statistic is np.mean and samples.ndim == 1 and bool(np.isin(samples, (0, 1)).all())
    all_equal = bool((samples == samples[:1]).all())
    if is_share and (members is None or all_equal):
        counted = binomtest(round(float(samples.mean()) * num_groups), num_groups)
        interval = counted.proportion_ci(method="exact" if all_equal else "wilson")
        return float(interval.low), float(interval.high)
    if num_groups == 1 or statistic in (np.max, np.min):
        return math.nan, math.nan
    if all_equal:
        return float(statistic(samples)), float(statistic(samples))
    at_once = statistic is np.mean and samples.ndim == 1 and members is None  # over ten times as fast

    def of_resample(rows: Int[np.ndarray, "..."], axis: int = -1) -> Any:
        if at_once:
            return samples[rows].mean(axis=axis)
        return statistic(samples[rows if members is None else np.concatenate([members[row] for row in rows])])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # all resamples may give the same, as they do here
        drawn = bootstrap(
            (np.arange(num_groups),),
            of_resample,
            n_resamples=num_resamples,
            batch=max(1, DRAWN_AT_ONCE // num_groups),
            vectorized=at_once,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return float(drawn.low), float(drawn.high)


def _members(groups: Shaped[np.ndarray, " n"]) -> list[Shaped[np.ndarray, " members"]]:
    """Return the positions of each group's members."""
    _, number = np.unique(groups, return_inverse=True)
    order = np.argsort(number, kind="stable")
    return np.split(order, np.cumsum(np.bincount(number))[:-1])


@dataclass(frozen=True)
class Row:
    """One row of a table: the method by the paper's name, where it was measured, and its figures by metric name."""

    method: str
    layer: int
    expansion: int | None
    figures: Mapping[str, Figure]
    source: str | None = None
    target: str | None = None
    note: str | None = None

    @property
    def is_own(self) -> bool:
        """Whether it belongs to the run's own method, whoever rated it; shuffled names do not."""
        method, *qualifiers = self.method.split(", ")
        return method == OWN_METHOD and "names shuffled" not in qualifiers

    def as_control(self) -> "Row":
        """Return the row as that of a control, for which neither way is better."""
        return replace(self, figures={name: figure.of_control() for name, figure in self.figures.items()})


@dataclass(frozen=True)
class Result:
    """The outcome of one evaluation, its choices where the paper is ambiguous, its origin (``<evaluation>.json``)."""

    evaluation: str
    rows: tuple[Row, ...]
    choices: Mapping[str, Any]
    details: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    wall_time_s: float = 0.0

    def save(self, path: Path) -> None:
        """Write the result with the package version and the git commit; the file appears whole or not at all."""
        write_json(path, {**asdict(self), "version": version("ard-audio"), "git_commit": git_commit()})

    @classmethod
    def load(cls, path: Path) -> "Result":
        """Load a result that :meth:`save` wrote."""
        saved = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(
            Row(**{**row, "figures": {name: Figure(**_numbers(f)) for name, f in row["figures"].items()}})
            for row in saved["rows"]
        )
        keys = ("evaluation", "choices", "seed", "wall_time_s", "details")
        return cls(rows=rows, **{key: saved[key] for key in keys})


def trained_in(results: Iterable[Result | None]) -> dict[str, str]:
    """Return, as a choice of a result that is made from others, the precision in which their SAEs were trained."""
    precisions = {result.choices["trained_in"] for result in results if result and "trained_in" in result.choices}
    return {"trained_in": ", ".join(sorted(precisions))} if precisions else {}


def _numbers(figure: Mapping[str, Any]) -> dict[str, Any]:
    return {**figure, **{k: math.nan for k in ("value", "low", "high") if figure[k] is None}}


@cache
def git_commit() -> str | None:
    """Return the commit of the source tree that this package runs from; None if it was installed from a wheel."""
    here = Path(__file__).parent
    process = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return process.stdout.strip() or None


@contextmanager
def replacing(path: Path, *, synced: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; the file written there becomes ``path`` if the block ends without error.

    A reader sees either the old file or the whole new one, even after a kill or a power cut: the data reach the disk
    before the name does. The temporary name is unique, so that two writers never share one. The file is removed if the
    block raises; only a kill leaves one behind, until the folder is next claimed (:func:`ard.files.claim`). The parent
    folder is created if it is missing. Several files in one ``with`` are all replaced at its end, the last one first.

    Args:
        path: the file.
        synced: wait until the data are on the disk. Thousands of files that are quickly made again need not wait:
            after a power cut such a file may be empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path, uuid4().hex[:12])
    with being_written(partial):
        try:
            yield partial
            if synced:
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that appears whole or not at all; NaN is written as null."""
    write_text(path, json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text that appears whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Add a checksum of the content, by which :func:`unsealed` detects changes in the JSON."""
    return {**content, SEAL: _seal(content)}


def unsealed(text: bytes | str) -> dict[str, Any]:
    """Return the content of sealed JSON, once its checksum is verified; JSON without a seal is returned as it is.

    Raises:
        ValueError: if it is not a JSON object, or its checksum does not match.
    """
    saved = json.loads(text)
    if not isinstance(saved, dict):
        raise ValueError("it is not a JSON object")
    seal = saved.pop(SEAL, None)
    if seal is not None and seal != _seal(saved):
        raise ValueError("its checksum does not match")
    return saved


def _seal(content: Mapping[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(_finite(content), sort_keys=True).encode())


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
