"""What the plan takes a class to do where a preset does not say is what the class does."""

from inspect import Parameter, signature

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from ard.activations import ActivationDataModule, ClipDataModule, Extraction
from ard.evaluation import HearOrRead
from ard.monosemanticity import ScoreMonosemanticity
from ard.naming import NameConcepts
from ard.plan.inputs import DEFAULTS
from ard.sae import SAETraining
from ard.steering import Design, MeasureSteering

CLASSES = [
    Extraction,
    ClipDataModule,
    ActivationDataModule,
    SAETraining,
    ModelCheckpoint,
    ScoreMonosemanticity,
    NameConcepts,
    HearOrRead,
    MeasureSteering,
]


@pytest.mark.parametrize("of_class", CLASSES, ids=lambda of_class: of_class.__name__)
def test_defaults_are_those_of_the_class(of_class):
    taken = {**DEFAULTS[of_class.__name__]}
    if "design" in taken:
        taken["design"] = Design(**taken["design"])
    parameters = signature(of_class).parameters
    assert taken == {name: parameters[name].default for name in taken}
    assert Parameter.empty not in taken.values()


def test_the_defaults_of_a_design_are_its_own():
    assert Design(**DEFAULTS["Design"]) == Design()


def test_no_class_is_left_unchecked():
    assert set(DEFAULTS) == {"Design", *(of_class.__name__ for of_class in CLASSES)}
