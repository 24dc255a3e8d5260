"""What holds for all of our metrics."""

from torchmetrics import Metric

from ard.evaluation.metric import ConceptAveragePrecision, ConceptMatching
from ard.monosemanticity.metric import SilentFeatures, WeightedMonosemanticity
from ard.probing.scores import CollectScores
from ard.representatives.metric import RandomActiveClips, RepresentativeClips
from ard.sae.metric import BETTER, NormByPosition, Quality


def test_every_metric_says_whether_higher_is_better():
    better = {ConceptMatching: True, ConceptAveragePrecision: True, WeightedMonosemanticity: True}
    neither = (
        Quality,
        NormByPosition,
        RepresentativeClips,
        RandomActiveClips,
        CollectScores,
        SilentFeatures,
    )  # several figures, or none
    assert all(metric.higher_is_better is known for metric, known in {**better, **dict.fromkeys(neither)}.items())
    ours = {metric for metric in Metric.__subclasses__() if metric.__module__.startswith("ard.")}
    assert ours == {*better, *neither}


def test_every_figure_of_an_saes_quality_says_which_way_is_better():
    assert list(BETTER) == list(Quality(2, 4).compute())
    lower = {"fvu", "normalised_mse", "not_positive_share", "dead_share", "rare_share"}
    assert {name for name, better in BETTER.items() if better == "lower"} == lower
    assert {name for name, better in BETTER.items() if better == "neither"} == {"l0"}
