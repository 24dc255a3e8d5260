"""The libraries that ours is compared with."""

import os
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

PEERS = Path(sys.prefix) / "peers"
"""Where `make test` puts them (requirements-peers.txt)."""


def find_peers(*, kernels: bool = False) -> None:
    """Import the peers from their folder, which is on the path no longer than that (see tests/sae/conftest.py).

    Where they are installed as any package is, they are found too.

    Args:
        kernels: let sparsify use its Triton kernels, which take a GPU.
    """
    os.environ["SPARSIFY_DISABLE_TRITON"] = str(int(not kernels))
    package = ModuleType("dictionary_learning")  # its own __init__ imports nnsight
    found = PathFinder.find_spec("dictionary_learning", [str(PEERS), *sys.path])
    if found is None or found.submodule_search_locations is None:
        raise SystemExit(f"{PEERS} lacks the libraries that are compared: run `make test` once, which installs them")
    package.__path__ = found.submodule_search_locations
    sys.modules["dictionary_learning"] = package
    sys.path.append(str(PEERS))
    for name in ("dictionary_learning.trainers.top_k", "sae_lens.saes.topk_sae", "sparsify"):
        import_module(name)
    sys.path.remove(str(PEERS))
