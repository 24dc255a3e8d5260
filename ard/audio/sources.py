"""The corpora by name or class, and the clips of a preset's split from several of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from ard.audio.audiobench import AudioBench
from ard.audio.folder import FolderClips
from ard.audio.fsd50k import FSD50K
from ard.audio.iemocap import IEMOCAP
from ard.audio.mixed import MixedClips
from ard.audio.synthetic import SyntheticCorpus
from ard.audio.wavcaps import WavCaps
from ard.classes import import_class
from ard.types import Clip, Failure, UserError

SOURCES: Mapping[str, Callable[..., Iterable[Clip | Failure]]] = {
    "folder": FolderClips,
    "wavcaps": WavCaps,
    "iemocap": IEMOCAP,
    "fsd50k": FSD50K,
    "audiobench": AudioBench,
    "synthetic": SyntheticCorpus,
    "mixed": MixedClips,
}


class Corpora:
    """Iterate over the clips of several corpora, one corpus after another.

    Args:
        parts: each with a corpus under ``source``, as :func:`corpus_class` takes it, and the arguments of its class.

    Raises:
        UserError: if a corpus does not exist or refuses its arguments.
    """

    def __init__(self, parts: Sequence[Mapping[str, Any]]) -> None:
        self._parts = [_opened(**part) for part in parts]

    def __len__(self) -> int:
        """Count the clips of the corpora that know their number, and the files of a folder."""
        return sum(len(part) for part in self._parts if isinstance(part, Sized))

    def __iter__(self) -> Iterator[Clip | Failure]:
        """Read corpus by corpus."""
        for part in self._parts:
            yield from part


def corpus_class(source: str) -> Callable[..., Iterable[Clip | Failure]]:
    """Return the class of a corpus by its name, or by its path, ``package.module.Class``.

    Raises:
        UserError: if there is none, or it has no clips to iterate over.
    """
    if source in SOURCES:
        return SOURCES[source]
    if "." not in source:
        raise UserError(
            f"source {source!r} does not exist: choose one of {', '.join(SOURCES)}, or write a class of your own as "
            "package.module.Class"
        )
    found = import_class(source)
    if not issubclass(found, Iterable):
        raise UserError(f"source {source!r} is no corpus: give its class an __iter__ over clips and failures")
    return found


def _opened(source: str, root: str | None = None, **arguments: Any) -> Iterable[Clip | Failure]:
    corpus = corpus_class(source)
    if root is not None:
        arguments["root"] = Path(root)
    try:
        return corpus(**arguments)
    except TypeError as error:
        raise UserError(
            f"source {source!r} cannot be opened with these arguments ({error}): see `ard shards {source} --help`"
        ) from error
