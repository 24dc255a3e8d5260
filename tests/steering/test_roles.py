"""Which features hear and which speak, in a model and a dictionary where both are known."""

import numpy as np
import pytest
import torch
from scipy.sparse import csc_array
from scipy.stats import false_discovery_control, mannwhitneyu
from sklearn.metrics import roc_auc_score

from ard.run import Run
from ard.sae import JumpReLUSAE
from ard.steering import Asked, Procedure, SteeringTask, alone, find_roles
from ard.steering.roles import (
    Heard,
    candidates,
    hearing,
    mean_activity,
    random_directions,
    read_roles,
    role_kind,
    save_roles,
)
from ard.types import Clip
from tests.steering.test_effects import plant

LAYER = 1
TASK = SteeringTask("sad", "happy", "happy or sad", ["happy", "sad"], "a happy voice")
HEARS, SPEAKS, BOTH, NEITHER = range(4)


@pytest.fixture(scope="module")
def planted(tiny_audiollm):
    return plant(tiny_audiollm, heard=False)


@pytest.fixture(scope="module")
def clips():
    """Loud clips are happy, quiet ones are sad, and all have another length."""
    rng = np.random.default_rng(0)
    return [
        Clip(
            f"{emotion} {n}",
            (1.0 if emotion == "happy" else 0.01) * rng.standard_normal(8000 + 100 * n).astype(np.float32),
            16000,
            "test",
            emotion=emotion,
        )
        for n in range(8)
        for emotion in ("happy", "sad")
    ]


@pytest.fixture(scope="module")
def dictionary(planted, clips):
    """Features that read the direction from quiet to loud or nothing, and write coordinate 0, which is read, or not."""
    captured = planted.capture(planted.prompter(clips, [TASK.prompt] * len(clips)), [LAYER])[LAYER]
    means = torch.stack([x.mean(dim=0) for x in captured])
    direction = means[::2].mean(dim=0) - means[1::2].mean(dim=0)
    between = direction @ (means[::2].mean(dim=0) + means[1::2].mean(dim=0)) / 2
    coder = JumpReLUSAE(32, 4)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.zero_()
        for feature in (HEARS, BOTH):
            coder.W_enc[:, feature] = 0.05 * direction / direction.norm() ** 2
            coder.b_enc[feature] = 0.1 - 0.05 * between / direction.norm() ** 2  # active everywhere, more where loud
        coder.W_dec[[SPEAKS, BOTH], 0] = torch.tensor([1.0, -1.0])
        coder.W_dec[[HEARS, NEITHER], 5] = 1
    return coder


def test_what_features_hear_and_do_is_told_apart(planted, dictionary, clips):
    asked = Asked(TASK, clips, ["sad"] * len(clips), Procedure("audio"))
    spread, how = alone(planted, dictionary, LAYER), {"by_name": [NEITHER, SPEAKS, HEARS], "most": 3}
    values = {HEARS: 0.5, SPEAKS: 0.5, BOTH: 0.5, NEITHER: 0.5}
    names = {SPEAKS: "a happy man"}
    roles = find_roles(spread, asked, values=values, names=names, **how)
    by_feature = {role.feature: role for role in roles}
    assert {feature: role.kind for feature, role in by_feature.items()} == {
        HEARS: "hears",
        SPEAKS: "speaks",
        BOTH: "both",
        NEITHER: "neither",
    }
    assert [role.effect for role in roles] == sorted((role.effect for role in roles), reverse=True)
    assert (roles[0].feature, roles[0].name, roles[0].by) == (SPEAKS, "a happy man", "name")
    assert by_feature[HEARS].by == "name and activity"
    assert by_feature[BOTH].by == "activity"
    assert by_feature[HEARS].auroc == 1
    assert by_feature[SPEAKS].auroc == 0.5
    assert np.isnan(by_feature[SPEAKS].q_value)
    for role in roles:
        assert (role.task, role.num_clips) == ("sad to happy", len(clips))
        assert role.effect_low <= role.effect <= role.effect_high
        assert role.effect_by_chance == roles[0].effect_by_chance > 0
        assert role.effect * role.norm == pytest.approx(role.change, rel=0.1, abs=1e-3)
    (only,) = find_roles(spread, asked, values=values, names=names, requested=[BOTH], **how)
    assert (only.feature, only.by) == (BOTH, "request")


def test_without_clips_of_the_source_or_candidates_there_are_no_roles(planted, dictionary, clips):
    spread, how = alone(planted, dictionary, LAYER), {"values": {SPEAKS: 1.0}, "names": {}}
    heard = ["happy"] * len(clips)
    assert find_roles(spread, Asked(TASK, clips, heard), by_name=[SPEAKS], **how) == []
    heard[0] = "sad"
    assert find_roles(spread, Asked(TASK, clips, heard), by_name=[], most=0, **how) == []


def test_clips_without_a_class_of_their_own_have_that_of_the_answer(planted, dictionary, clips):
    bare = [Clip(clip.id, clip.waveform, clip.sample_rate_hz, "test") for clip in clips]
    spread, how = (
        alone(planted, dictionary, LAYER),
        {"by_name": [HEARS], "values": {HEARS: 1.0}, "names": {}, "most": 1},
    )
    answers = ["happy" if clip.emotion == "happy" else "sad" for clip in clips]
    (role,) = find_roles(spread, Asked(TASK, bare, answers), **how)
    assert (role.auroc, role.num_clips) == (1, 8)
    (other,) = find_roles(spread, Asked(TASK, bare, answers[::-1]), **how)
    assert other.auroc == 0


def test_activity_is_the_mean_of_dense_codes_over_audio_tokens(planted, dictionary, clips):
    found = mean_activity(alone(planted, dictionary, LAYER), clips, TASK.prompt, clips_per_batch=3)
    for row, clip in zip(found.toarray(), clips, strict=True):
        (x,) = planted.capture(planted.prompter([clip], [TASK.prompt]), [LAYER])[LAYER]
        with torch.no_grad():
            dense = (x @ dictionary.W_enc + dictionary.b_enc).relu().mean(dim=0)
        np.testing.assert_allclose(row, dense, rtol=1e-4)


def test_hearing_is_sklearns_auroc_with_the_p_values_of_the_whole_dictionary(monkeypatch):
    rng = np.random.default_rng(0)
    classes = ["happy", "sad", None, "angry"] * 10
    dense = np.round(rng.random((40, 9)) * (rng.random((40, 9)) > 0.5), 1)
    dense[::4, 3] += 2
    dense[:, 5] = 0.3
    dense[:, 6] = [0.0, 0.0, 1.0, 2.0] * 10  # alike on what is compared
    monkeypatch.setattr("ard.steering.roles.COLUMNS_AT_ONCE", 4)
    found = hearing(csc_array(dense), classes, "sad", "happy")
    compared = [index for index, name in enumerate(classes) if name in ("happy", "sad")]
    truth = [classes[index] == "happy" for index in compared]
    for feature in range(9):
        values = dense[compared, feature]
        assert found.auroc[feature] == pytest.approx(roc_auc_score(truth, values))
    alike = [5, 6]
    assert np.isnan(found.p_value).nonzero()[0].tolist() == alike
    tested = np.delete(np.arange(9), alike)
    p = [mannwhitneyu(dense[::4, f], dense[1::4, f], method="asymptotic").pvalue for f in tested]
    np.testing.assert_allclose(found.p_value[tested], p)
    np.testing.assert_allclose(found.q_value[tested], false_discovery_control(p))
    nobody = hearing(csc_array(dense), classes, "sad", "bored")
    assert (nobody.auroc == 0.5).all()
    assert np.isnan(nobody.q_value).all()


def test_candidates_come_by_name_and_by_activity_without_duplicates():
    auroc = np.array([0.5, 0.1, 0.8, 0.6, 0.5])
    heard = Heard(auroc, np.array([0.5, 0.1, 0.1, 0.1, np.nan]), auroc)
    assert [tuple(one) for one in candidates([4, 2, 0], heard, {0, 1, 2, 3, 4}, 2)] == [
        (4, "name"),
        (2, "name and activity"),
        (1, "activity"),
    ]
    assert [one.feature for one in candidates([4, 2, 0], heard, {0, 3}, 2)] == [0, 3]
    assert [one.feature for one in candidates([], heard, {0, 1, 2, 3, 4}, 9)] == [1, 2, 3, 0]


def test_random_directions_have_the_norms_that_are_wanted():
    norms = np.array([2.0, 0.0, 0.5])
    drawn = random_directions(norms, 32, seed=3)
    assert drawn.norm(dim=1).tolist() == pytest.approx([2.0, 0.5])
    assert torch.equal(drawn, random_directions(norms, 32, seed=3))
    assert not torch.equal(drawn, random_directions(norms, 32, seed=4))


def test_kinds():
    kinds = {(h, s): role_kind(hears=h, speaks=s) for h in (False, True) for s in (False, True)}
    assert kinds == {
        (False, False): "neither",
        (True, False): "hears",
        (False, True): "speaks",
        (True, True): "both",
    }


def test_roles_are_read_as_they_were_written(planted, dictionary, clips, tmp_path):
    asked, values = Asked(TASK, clips, ["sad"] * len(clips)), {HEARS: 1.0, BOTH: 1.0}
    roles = find_roles(alone(planted, dictionary, LAYER), asked, by_name=[HEARS, BOTH], values=values, names={})
    cell = Run(tmp_path).cell(1, 2)
    save_roles(cell, roles)
    assert read_roles(cell) == roles
    save_roles(cell, [])
    assert read_roles(cell) == []
