"""What features do to an answer, also in a model whose weights are set by hand so that it reads one of them."""

import math

import numpy as np
import pytest
import torch

from ard.audiollm import load_audiollm
from ard.ranks import Ranks
from ard.sae import JumpReLUSAE, PolyFeatures, TopKSAE
from ard.steering import (
    Asked,
    ClassMatch,
    Procedure,
    SteeringTask,
    effect_by_layer,
    measure_directions,
    measure_effects,
    steer,
)
from ard.steering.effects import begun_answer
from ard.types import Clip, UserError

LAYER = 1
READ, UNREAD, BACK, NOTHING = range(4)  # features of the planted dictionary
TASK = SteeringTask("sad", "happy", "happy or sad", ["happy", "sad"], "a happy voice")
ANSWERS = ["", "a man speaking, sad", "Sad"]


def about(clips, answers=ANSWERS, task=TASK, **procedure):
    return Asked(task, clips, answers, Procedure(**procedure))


def tokens_of(model, word, other):
    """The tokens with which a word begins, with or without a capital and a space, and another word does not."""
    found = set()
    for spell in (str.lower, str.capitalize):
        for spaces in ([""], [" "], ["", " "]):
            mine, others = ({int(model.tokens([space + spell(w)])[0][0]) for space in spaces} for w in (word, other))
            found |= mine - others
    return sorted(found)


def plant(folder, heard):
    """Return a model whose last layer copies coordinate 0 of all tokens before to coordinate 1, which its head reads.

    Without any feature both are 0, except where sound is ``heard`` in coordinate 0.
    """
    model = load_audiollm(folder)
    with torch.no_grad():
        for layer in model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        attention = model.layers[-1].self_attn
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.weight.zero_()  # queries and keys of 0: the mean over all tokens so far
            projection.bias.zero_()
        attention.v_proj.weight[0, 0], attention.o_proj.weight[1, 0] = 1, 0.005  # too little to saturate the answer
        model.model.get_input_embeddings().weight[:, :2] = 0
        for parameter in model.model.model.multi_modal_projector.parameters():
            parameter[0 if not heard else 1 : 2] = 0
        head = model.model.get_output_embeddings().weight
        head.zero_()
        head[tokens_of(model, "happy", "sad"), 1], head[tokens_of(model, "sad", "happy"), 1] = 3, -3
    return model


@pytest.fixture(scope="module")
def planted(tiny_audiollm):
    return plant(tiny_audiollm, heard=False)


@pytest.fixture(scope="module")
def dictionary():
    """Features that write what is read, what is not, what is read with the other sign, and nothing."""
    coder = JumpReLUSAE(32, 4)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.zero_()
        coder.W_dec[READ, 0], coder.W_dec[UNREAD, 5], coder.W_dec[BACK, 0] = 1, 1, -1
    return coder


def test_a_feature_that_the_answer_reads_has_an_effect_and_one_that_it_does_not_read_has_none(
    planted, dictionary, clips
):
    values = {READ: 0.5, UNREAD: 0.5, BACK: 0.5, NOTHING: 0.5}
    found = measure_effects(planted, dictionary, LAYER, values, about(clips))
    read, unread, back, nothing = found.effect
    assert (read > 1).all()
    assert (back < -1).all()
    assert unread == pytest.approx(0, abs=1e-5)
    assert (nothing == 0).all()
    assert found.norm == pytest.approx(np.array([[0.5] * 3] * 3 + [[0] * 3]), abs=1e-6)
    assert found.output_score[NOTHING] == found.lens[NOTHING] == 0
    assert found.features == list(values)


def test_the_head_itself_reads_a_row_that_the_last_norm_passes_on(planted, dictionary, clips):
    """The lens of coordinate 1 is 2 * 3 * sqrt(32), as the final norm makes a unit vector sqrt(32) long."""
    coder = JumpReLUSAE(32, 2)
    coder.load_state_dict({name: torch.zeros_like(x) for name, x in coder.state_dict().items()})
    coder.W_dec.data[0, 1], coder.W_dec.data[1, 7] = 1, 1
    found = measure_effects(planted, coder, 3, {0: 9.0, 1: 9.0}, about(clips, phase="every"))
    assert found.lens == pytest.approx([6 * math.sqrt(32), 0], rel=1e-3)
    first = len(tokens_of(planted, "happy", "sad"))  # which are said equally often, and no other is likelier
    assert found.output_score[0] == pytest.approx(1 / first, abs=1e-3)
    assert found.output_score[1] < 0.1


@pytest.mark.parametrize("positions", ["all", "audio", "last"])
@pytest.mark.parametrize("phase", ["prefill", "every"])
def test_the_log_odds_are_those_of_the_steered_model(model, clips, sae, positions, phase):
    values = {5: 30.0, 90: 4.0}
    where = {"positions": positions, "phase": phase}
    found = measure_effects(model, sae, LAYER, values, about(clips, **where))
    begun = ["", "a man speaking,", ""]
    spelt = [(["happy", " happy"], ["sad", " sad"]), ([" happy"], [" sad"]), (["Happy", " Happy"], ["Sad", " Sad"])]
    prompts = model.prompter(clips, [TASK.prompt] * 3)
    tokens = []
    for beginning, words in zip(begun, spelt, strict=True):
        length = len(model.tokens([beginning])[0])
        target, source = ({int(model.tokens([beginning + word])[0][length]) for word in of_class} for of_class in words)
        tokens.append((sorted(target - source), sorted(source - target)))

    def log_odds():
        each = zip(model.next_token(prompts, begun).exp(), tokens, strict=True)
        return [float((p[target].sum() / p[source].sum()).log()) for p, (target, source) in each]

    plain = log_odds()
    assert len({str(pair) for pair in tokens}) == 3
    for row, (feature, value) in enumerate(values.items()):
        with steer(model, sae, LAYER, {feature: value}, keep_error=True, **where):
            expected = np.array(log_odds()) - plain
        assert found.change[row] == pytest.approx(expected, abs=1e-4)
        assert np.abs(found.change[row]).max() > 1e-2


@pytest.mark.parametrize("coder", ["topk", "raw"])
def test_many_features_in_one_pass_equal_one_at_a_time_and_few_clips_at_a_time(model, clips, sae, coder):
    made = {"topk": sae, "raw": PolyFeatures(32)}[coder]
    values = {feature: 3.0 + feature for feature in range(7)}
    passes = []
    handle = model.model.register_forward_pre_hook(lambda *_: passes.append(1))
    together = measure_effects(model, made, LAYER, values, about(clips))
    handle.remove()
    assert len(passes) == 2  # one without and one with all features
    for rows in (1, 2, 7):
        apart = measure_effects(model, made, LAYER, values, about(clips, clips_per_batch=rows))
        for one, other in zip(together[1:], apart[1:], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    for row, (feature, value) in enumerate(values.items()):
        alone = measure_effects(model, made, LAYER, {feature: value}, about(clips))
        np.testing.assert_allclose(together.change[row], alone.change[0], rtol=1e-3, atol=1e-4)


def test_the_norm_is_that_of_the_change_at_the_positions_that_change(model, clips, sae):
    found = measure_effects(model, sae, LAYER, {5: 30.0}, about(clips, positions="audio"))
    prompts = model.prompter(clips, [TASK.prompt] * 3)
    for clip, x in enumerate(model.capture(prompts, [LAYER])[LAYER]):
        with torch.no_grad():
            change = sae.decode(sae.encode(x, {5: 30.0})) - sae(x)
        assert found.norm[0, clip] == pytest.approx(float(change.norm(dim=-1).mean()), rel=1e-4)


def test_a_direction_does_what_the_feature_that_adds_it_does(planted, dictionary, clips):
    by_feature = measure_effects(planted, dictionary, LAYER, {READ: 0.5, BACK: 2.0}, about(clips))
    directions = torch.stack([0.5 * dictionary.W_dec[READ], 2 * dictionary.W_dec[BACK]]).detach()
    change, norm = measure_directions(planted, LAYER, directions, about(clips))
    np.testing.assert_allclose(change, by_feature.change, atol=1e-5)
    np.testing.assert_allclose(norm, by_feature.norm, atol=1e-5)


def test_the_sweep_ends_where_the_answer_is_read(tiny_audiollm, clips):
    """The last layer reads the tokens before it, so at its own end only a change of the last token would matter."""
    planted = plant(tiny_audiollm, heard=True)
    loud = [Clip(f"loud {c.id}", 5 * c.waveform, c.sample_rate_hz, "test") for c in clips]
    asked = about([*clips, *loud], ["sad"] * 6, positions="audio", clips_per_batch=2)
    swept = effect_by_layer(planted, asked, ["sad"] * 3 + ["happy"] * 2 + [None])
    assert [point.layer for point in swept] == [0, 1, 2, 3]
    assert all(len(point.change) == 3 and point.norm > 0 for point in swept)
    for point in swept[:3]:  # the layers do nothing, so that the difference is the same
        np.testing.assert_allclose(point.change, swept[0].change, atol=1e-5)
        assert (np.abs(point.change) > 1e-4).all()
    assert np.abs(swept[3].change).max() < 1e-6
    means = [torch.stack([x.mean(dim=0) for x in planted.capture(c, [0])[0]]).mean(dim=0) for c in (loud[:2], clips)]
    assert swept[0].norm == pytest.approx(float((means[0] - means[1]).norm()), rel=1e-4)


@pytest.mark.parametrize("rows", [2, 7, 64])
def test_what_ranks_measure_apart_is_the_whole_to_the_last_bit(model, clips, sae, rows):
    values = {feature: 3.0 + feature for feature in range(7)}
    asked = about(clips, clips_per_batch=rows)
    whole = measure_effects(model, sae, LAYER, values, asked)
    shares = [measure_effects(model, sae, LAYER, values, asked, Ranks(rank, 3)) for rank in range(3)]
    for name in ("change", "norm", "scores"):
        assert np.array_equal(sum(getattr(share, name) for share in shares), getattr(whole, name))
    assert np.array_equal(sum((share.norm > 0).astype(int) for share in shares), whole.norm > 0)  # nothing twice
    assert all(np.array_equal(share.lens, whole.lens) for share in shares)


@pytest.mark.parametrize(
    ("answer", "begun"),
    [
        ("He is happy.", ("He is ", "happy")),
        ("SAD", ("", "SAD")),
        ("happy or sad", ("", "")),
        ("unhappy", ("", "")),
        ("", ("", "")),
    ],
)
def test_an_answer_is_begun_up_to_the_word_that_states_its_class(answer, begun):
    assert begun_answer(answer, ClassMatch(TASK.question.classes)) == begun


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": SteeringTask("sax", "sad", "sad", ["sax", "sad"], "sad")}, "'sad' and 'sax' begin with the same tok"),
        ({"answers": ["sad"]}, "1 answers are given for 3 clips"),
        ({"coder": TopKSAE(16, 64, k=4)}, "for a width of 16, and '.*' is 32 wide"),
        ({"values": {128: 1.0}}, "feature 128 does not exist"),
        ({"values": {1: -1.0}}, "feature 1 cannot be set to -1.0"),
        ({"layer": 4}, "layer 4 does not exist"),
    ],
)
def test_what_cannot_be_measured_is_refused(model, clips, sae, change, message):
    given = {"coder": sae, "layer": LAYER, "values": {1: 1.0}, "answers": ANSWERS, "task": TASK} | change
    asked = about(clips, given.pop("answers"), given.pop("task"))
    with pytest.raises(UserError, match=message):
        measure_effects(model, asked=asked, **given)


def test_a_sweep_needs_clips_of_both_classes(model, clips):
    with pytest.raises(UserError, match="no clip is of class 'happy'"):
        effect_by_layer(model, about(clips), ["sad"] * 3)
