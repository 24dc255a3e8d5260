"""`ard convert`: convert SAEs between the formats of libraries."""

from pathlib import Path

from ard.console import console
from ard.sae import Format
from ard.sae import convert as convert_sae


def convert(src: str, dst: Path, to: Format) -> None:
    """Write an SAE in the format of another library: SAELens, sparsify or dictionary_learning.

    Args:
        src: folder or hub id of an SAE in any of the formats, which is recognised by its files.
        dst: a new folder.
        to: the format.
    """
    convert_sae(src, dst, to)
    console.print(f"{to}: {dst}", highlight=False)
