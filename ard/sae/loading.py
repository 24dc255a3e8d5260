"""Load a dictionary as the class of its kind: a new kind of SAE is one more name in ``KINDS``."""

from collections.abc import Mapping
from pathlib import Path

from ard.sae.autoencoder import SAE
from ard.sae.dictionary import Dictionary
from ard.sae.formats import read
from ard.sae.jumprelu import JumpReLUSAE
from ard.sae.poly import HalfWaves, PolyFeatures
from ard.sae.topk import TopKSAE
from ard.types import UserError

RAW: Mapping[str, type[PolyFeatures] | type[HalfWaves]] = {"poly": PolyFeatures, "half-waves": HalfWaves}
"""Dictionaries that need no files: the raw coordinates, signed and as half-waves."""

KINDS: tuple[type[SAE], ...] = (TopKSAE, JumpReLUSAE)


def load_dictionary(source: str | Path, d_in: int | None = None) -> Dictionary:
    """Load an SAE, of the kind that its files declare, or raw coordinates, which are a name in ``RAW``.

    Args:
        source: a folder; as a string also one on the hub (:meth:`~ard.sae.autoencoder.SAE.from_pretrained`), or
            a name in ``RAW``.
        d_in: width of the residual stream; needed for raw coordinates only, which have no files to read it from.

    Raises:
        UserError: if there is no SAE that can be read, or raw coordinates are given no width.
    """
    if source not in RAW:
        stored = read(source)
        return next(kind for kind in KINDS if kind.architecture == stored.architecture).from_stored(stored)
    if d_in is None:
        raise UserError(f"raw coordinates ({source!r}) have no width of their own: give d_in")
    return RAW[str(source)](d_in)
