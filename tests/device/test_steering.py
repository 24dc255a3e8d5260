"""Answers and losses on a pretended GPU are those of the CPU, whatever is set where."""

import numpy as np
import pytest
import torch

from ard.audiollm import load_audiollm
from ard.evaluation.loss import caption_losses
from ard.sae import PolyFeatures, TopKSAE
from ard.steering import Asked, SteeringTask, effect_by_layer, measure_directions, measure_effects, steer
from ard.types import Clip
from tests.device.pretend import CUDA, pretend_cuda

LAYER, QUESTION = 1, "what is it?"
CODERS = {
    "TopK": lambda: TopKSAE(32, 128, k=8, generator=torch.Generator().manual_seed(0)),
    "BatchTopK": lambda: TopKSAE(32, 128, k=8, threshold=0.5, generator=torch.Generator().manual_seed(0)),
    "coordinates": lambda: PolyFeatures(32),
}
STEERING = {
    "everywhere": {},
    "audio alone": {"positions": "audio"},
    "the last token, the answer too": {"positions": "last", "phase": "every"},
    "the error kept": {"keep_error": True},
    "by maxima": {"maxima": torch.full((128,), 2.0)},
    "a direction": {"add": torch.linspace(-3.0, 3.0, 32), "positions": "audio", "phase": "every"},
}
ANSWERING = {
    "greedy": {},
    "beams": {"num_beams": 2, "num_answers": 2},
    "draws": {"temperature": 1.0, "seed": 3, "num_answers": 2},
}


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    return [
        Clip(str(n), rng.standard_normal(n).astype(np.float32) * 0.1, 16000, "test", caption="a dog barking")
        for n in (14400, 6400)
    ]


def answers(folder, clips, coder, steering, answering):
    model, coder = load_audiollm(folder), CODERS[coder]()
    with steer(model, coder, LAYER, {5: 3.0}, **steering):
        return model.generate(clips, [QUESTION] * len(clips), max_new_tokens=5, **answering)


def answers_on_the_device(folder, clips, coder, steering, answering):
    with pretend_cuda():
        model, coder = load_audiollm(folder, device="cuda"), CODERS[coder]().to(CUDA)
        steering = {name: value.to(CUDA) if torch.is_tensor(value) else value for name, value in steering.items()}
        assert model.device == CUDA
        with steer(model, coder, LAYER, {5: 3.0}, **steering):
            return model.generate(clips, [QUESTION] * len(clips), max_new_tokens=5, **answering)


@pytest.mark.parametrize(
    ("coder", "steering", "answering"),
    [
        *(("TopK", steering, "greedy") for steering in STEERING),
        *(("TopK", "the last token, the answer too", answering) for answering in ("beams", "draws")),
        ("BatchTopK", "everywhere", "greedy"),
        ("coordinates", "everywhere", "greedy"),
    ],
)
def test_answers_are_the_same(tiny_audiollm, clips, coder, steering, answering):
    given = tiny_audiollm, clips, coder, STEERING[steering], ANSWERING[answering]
    assert answers_on_the_device(*given) == answers(*given)


def test_losses_are_the_same(tiny_audiollm, clips):
    expected = caption_losses(load_audiollm(tiny_audiollm), clips, 0)
    with pretend_cuda():
        found = caption_losses(load_audiollm(tiny_audiollm, device="cuda"), clips, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def effects(model, coder, clips):
    """What features and directions do to an answer, and what the classes' difference does at every layer."""
    asked = Asked(SteeringTask("sad", "happy", "happy or sad", ["happy", "sad"], "a happy voice"), clips, ["sad", ""])
    of_features = measure_effects(model, coder, LAYER, {5: 3.0, 9: 30.0}, asked)
    of_directions = measure_directions(model, LAYER, torch.eye(32)[:2], asked)
    by_layer = [(point.norm, *point.change) for point in effect_by_layer(model, asked, ["sad", "happy"])]
    return *of_features[1:], *of_directions, np.array(by_layer)


def test_effects_are_the_same(tiny_audiollm, clips):
    expected = effects(load_audiollm(tiny_audiollm), CODERS["TopK"](), clips)
    with pretend_cuda():
        found = effects(load_audiollm(tiny_audiollm, device="cuda"), CODERS["TopK"]().to(CUDA), clips)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert np.abs(other).max() > 0
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
