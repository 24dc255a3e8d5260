"""The libraries that the SAE is compared with, from the folder `make test` installs them into; a store to train on."""

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.sae.trainings import X, write_store


@pytest.fixture(scope="session")
def peers():
    """SAELens, sparsify and dictionary_learning's trainers: the real packages (requirements-peers.txt).

    The folder is on the path only while they are imported: transformers, which is imported by then, must not find
    accelerate there, and behave otherwise than for a user. dictionary_learning is entered below its ``__init__``, which
    imports an nnsight that does not run beside transformers 5.
    """
    folder = str(Path(sys.prefix) / "peers")
    package = ModuleType("dictionary_learning")
    package.__path__ = PathFinder.find_spec("dictionary_learning", [folder]).submodule_search_locations
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, folder])
        patch.setitem(sys.modules, "dictionary_learning", package)
        patch.setenv("SPARSIFY_DISABLE_TRITON", "1")  # whose kernels take a GPU
        return SimpleNamespace(
            dictionary_learning=import_module("dictionary_learning.trainers"),
            sae_lens=import_module("sae_lens"),
            sparsify=import_module("sparsify"),
        )


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of few activations."""
    return write_store(tmp_path_factory.mktemp("store") / "activations", X)
