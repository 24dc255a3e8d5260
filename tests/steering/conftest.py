"""A tiny model, a dictionary of one of its layers, and clips of noise."""

import numpy as np
import pytest
import torch

from ard.audiollm import load_audiollm
from ard.sae import TopKSAE
from ard.types import Clip


@pytest.fixture(scope="package")
def model(tiny_audiollm):
    return load_audiollm(tiny_audiollm)


@pytest.fixture(scope="package")
def sae():
    return TopKSAE(32, 128, k=8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="package")
def clips():
    rng = np.random.default_rng(0)
    return [Clip(str(n), rng.standard_normal(n).astype(np.float32) * 0.1, 16000, "test") for n in (14400, 6400, 9600)]
