"""Each cause is planted in the evidence, alone, and found; so is one in a model whose weights are set by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ard.audio import write_audio_shards
from ard.results import Figure
from ard.run import Run
from ard.sae import TopKSAE
from ard.steering import Design, Interview, Procedure, Role, SteeringTask
from ard.steering.choice import STEERED, Choice, Tuned
from ard.steering.diagnosis import AtLayer, Evidence, Examination, diagnose
from ard.steering.experiment import Measured
from ard.steering.features import Found, NamedFeature
from ard.steering.judge import ClassMatch, ExactMatch
from ard.steering.settings import Setting
from ard.steering.trials import Split, Trials
from ard.types import Clip
from tests.steering.test_effects import plant

TASK = SteeringTask("sad", "happy", "happy or sad", ["happy", "sad"], "a happy voice", "a sad voice")
NAMED = [NamedFeature(1, "a happy man", 0.8), NamedFeature(2, "a glad man", 0.6)]


def role(feature, kind, effect):
    about = {"feature": feature, "kind": kind, "effect": effect, "change": 3 * effect}
    return Role(**(dict.fromkeys(Role._fields) | about))


def at(layer, value, low=None):
    return AtLayer(layer, 1.0, Figure(value, value - 0.1 if low is None else low, value + 0.1, 8, "nats"))


UNKNOWN = Evidence(
    task=TASK,
    sensitivity=0.01,
    ranks={"random features": (0.4, 100)},
    chosen=NAMED,
    named_for={"a sad voice": {1: 0.3, 2: 0.5}},
    roles={1: role(1, "both", 0.5), 2: role(2, "hears", 0.0)},
    doses=[(0.0, 0.0), (1.0, 0.0), (2.0, 0.1), (4.0, 0.3)],
    kept=1.0,
    layers=[at(0, 1.0), at(1, 1.2), at(2, 1.1), at(3, 0.1)],
    layer=2,
    places=16,
)
"""Steering does not work, and no cause applies: features are named and move the answer, and more of them helps."""


def causes(**changes):
    return [one["cause"] for one in diagnose(replace(UNKNOWN, **changes))["causes"]]


@pytest.mark.parametrize(
    ("changes", "cause", "because"),
    [
        ({"chosen": []}, "no feature is named for it", "no feature has a name that may be set"),
        (
            {"named_for": {"a sad voice": {1: 0.9, 2: 0.7}, "a dog": {1: 0.1}}},
            "no feature is named for it",
            "'a happy man', the closest name, is closer to 'a sad voice' (CLAP cosine 0.90) than to 'a happy "
            "voice' (0.80)",
        ),
        (
            {"roles": {1: role(1, "hears", 0.01), 2: role(2, "both", -0.5)}},
            "named but without effect",
            "of 2 features that are set, none moves the log-odds of 'happy' up by more than random directions do; 1 "
            "only hear the class, 1 move the answer the other way",
        ),
        (
            {"doses": [(0.0, 0.0), (1.0, 0.1), (2.0, 0.25), (4.0, 0.3)]},
            "effect but saturated",
            "1 of 2 features move the answer, 1 the furthest, by +1.5 nats, where the difference of the class "
            "means does +1.1; but from 2 to 4 times their maxima sensitivity goes from 0.25 to 0.30",
        ),
        (
            {"doses": [(0.0, 0.0), (1.0, 0.4), (2.0, 0.2)]},
            "effect but saturated",
            "from 1 to 2 times their maxima sensitivity goes from 0.40 to 0.20",
        ),
        ({"places": 2}, "effect but saturated", "they take all 2 places that TopK leaves at a token"),
        (
            {"layer": 3},
            "the answer is read from an earlier layer",
            "the difference of the class means moves the log-odds by +1.2 nats at layer 1, and by +0.1 at layer 3",
        ),
        (
            {"kept": 0.5},
            "the reconstruction alone changes the answer",
            "with the SAE and nothing set, 0.50 of the answers stay of the same class",
        ),
    ],
)
def test_a_planted_cause_is_the_only_one_that_is_found(changes, cause, because):
    (found,) = diagnose(replace(UNKNOWN, **changes))["causes"]
    assert found["cause"] == cause
    assert because in found["because"]


def test_without_evidence_there_is_no_cause():
    assert causes() == []
    assert causes(roles={}, doses=[], layers=[], kept=math.nan, named_for={}) == []
    assert causes(layer=3, layers=[at(1, 1.2, low=-0.1), at(3, 0.0)]) == []  # of which nothing is sure
    assert causes(layer=3, layers=[at(1, 1.2), at(3, 0.7)]) == []  # more than half is left
    assert causes(doses=[(1.0, 1.0), (2.0, 1.0)]) == []  # no answer is left to be turned


def test_names_that_no_other_concept_is_known_for_are_named():
    assert causes(named_for={"a sad voice": {2: 0.9}}) == []  # the first feature is enough


def test_several_causes_are_said_together():
    assert causes(places=2, layer=3, kept=0.2) == [
        "effect but saturated",
        "the answer is read from an earlier layer",
        "the reconstruction alone changes the answer",
    ]


@pytest.mark.parametrize(
    ("sensitivity", "ranks", "wrong"),
    [
        (0.49, {}, ["0.49 of the answers turn"]),
        (0.5, {}, None),
        (0.9, {"random features": (0.05, 100)}, ["p = 0.05 among 100 random features"]),
        (0.9, {"random features": (0.04, 100), "random directions": (0.04, 100)}, None),
        (0.9, {"random features": (0.25, 3)}, None),  # three draws can say nothing
        (0.9, {"random features": (0.05, 19)}, None),
        (math.nan, {"random features": (math.nan, 100)}, None),
    ],
)
def test_only_where_steering_does_not_work_is_there_a_diagnosis(sensitivity, ranks, wrong):
    found = diagnose(replace(UNKNOWN, sensitivity=sensitivity, ranks=ranks, kept=0.2))
    assert (found and found["wrong"]) == wrong


def test_the_layer_behind_which_a_planted_model_reads_is_found(tiny_audiollm, tmp_path):
    """The model's last layer reads the tokens before it, so that nothing is left to change at that layer's own end."""
    model = plant(tiny_audiollm, heard=True)
    rng, run = np.random.default_rng(0), Run(tmp_path)
    waves = [10.0 ** (number % 2 - 2) * rng.standard_normal(8000 + 100 * number) for number in range(8)]
    clips = [Clip(f"c{number}", wave.astype(np.float32), 16000, "t") for number, wave in enumerate(waves)]
    words = {"sad": ["sad", "s"], "happy": ["happy", "h"]}  # of which the model says one token
    stated = ClassMatch(words)(model.generate(clips, [TASK.prompt] * 8, 1))
    source, target = ("sad", "happy") if stated.count("sad") > stated.count("happy") else ("happy", "sad")
    task = replace(TASK, source=source, target=target, classes=words)
    clips = [replace(clip, emotion=source if number % 2 else target) for number, clip in enumerate(clips)]
    write_audio_shards(clips, run.audio("steer"))
    sae = TopKSAE(32, 64, k=4, generator=torch.Generator().manual_seed(0))
    procedure = Procedure("audio", max_new_tokens=1, clips_per_batch=4)
    interview = Interview(model, sae, 3, answers=run.answers, procedure=procedure)
    trials = Trials(interview, ExactMatch(), maxima=torch.ones(64), design=Design(), seed=0)
    own = Tuned(STEERED, Setting((1, 2)), [], {"features": [one._asdict() for one in NAMED]})
    figures = {STEERED: {"sensitivity": Figure(0.0, 0.0, 0.1, 8, "share of clips")}}
    drawn = {"p": math.nan, "draws": []}
    details = {"random_features": drawn, "random_directions": drawn, "dose_response": [], "reached": {"c1": 0.0}}
    split = Split(run.audio("steer"), clips)
    examine = Examination(trials, lambda concept: Found(NAMED, "the test"), [task])
    found = examine(task, split, split, Choice(own, [], [], [], 8), Measured(figures, details))
    effects = [one["effect"]["value"] for one in found["layers"]]
    assert [one["layer"] for one in found["layers"]] == [0, 1, 2, 3]
    assert effects[0] == pytest.approx(effects[1], abs=1e-5)
    assert abs(effects[3]) < 1e-5 < abs(effects[2])
    assert found["diagnosis"]["wrong"] == ["0.00 of the answers turn"]
    nobody = Split(run.audio("steer"), [replace(clip, emotion=None) for clip in clips])
    assert examine(task, nobody, nobody, Choice(own, [], [], [], 8), Measured(figures, details))["layers"] == []
