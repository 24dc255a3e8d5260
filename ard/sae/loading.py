"""Load a dictionary as the class of its kind: a new kind of SAE is one more name in ``KINDS``."""

from pathlib import Path

from ard.sae.autoencoder import SAE
from ard.sae.dictionary import Dictionary
from ard.sae.formats import read
from ard.sae.jumprelu import JumpReLUSAE
from ard.sae.poly import PolyFeatures
from ard.sae.topk import TopKSAE
from ard.types import UserError

POLY = "poly"
KINDS: tuple[type[SAE], ...] = (TopKSAE, JumpReLUSAE)


def load_dictionary(source: str | Path, d_in: int | None = None) -> Dictionary:
    """Load an SAE, of the kind that its files declare, or the raw coordinates for ``poly``.

    Args:
        source: a folder; as a string also one on the hub (:meth:`~ard.sae.autoencoder.SAE.from_pretrained`), or
            ``poly``.
        d_in: width of the residual stream; needed for raw coordinates only, which have no files to read it from.

    Raises:
        UserError: if there is no SAE that can be read, or raw coordinates are given no width.
    """
    if source != POLY:
        stored = read(source)
        return next(kind for kind in KINDS if kind.architecture == stored.architecture).from_stored(stored)
    if d_in is None:
        raise UserError(f"raw coordinates ({POLY!r}) have no width of their own: give d_in")
    return PolyFeatures(d_in)
