"""What features do to an answer: the change of its log-odds when they are set, many features in one forward pass."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ard.audiollm import AudioLLM, Positions
from ard.ranks import Ranks
from ard.sae import Dictionary
from ard.steering.interview import Procedure
from ard.steering.judge import ClassMatch
from ard.steering.steer import Phase, Where, _as_weights, _set_positions, clamp_values
from ard.steering.task import SteeringTask
from ard.types import Clip, UserError

NUM_LENS_TOKENS = 20
"""Tokens of the logit lens that the output score looks for, as in Arad et al.'s code."""

Move = Callable[[Float[Tensor, "tokens d_in"]], Float[Tensor, "tokens d_in"]]
"""What is added to each of these tokens; it may depend on them."""


class Effects(NamedTuple):
    """What each feature does, when it is set, to the log-odds of the target's words against the source's."""

    features: list[int]
    change: Float[np.ndarray, "features clips"]  # of the log-odds, in nats
    norm: Float[np.ndarray, "features clips"]  # of the residual's change, a mean over the positions that change
    scores: Float[np.ndarray, "features clips"]  # 0 to 1; NaN where the head does not read the layers
    lens: Float[np.ndarray, " features"]  # log-odds that head and final norm make of the decoder's row; NaN likewise

    @property
    def effect(self) -> Float[np.ndarray, "features clips"]:
        """The change of the log-odds per unit of change in the residual's norm; 0 where nothing changes."""
        return per_norm(self.change, self.norm)

    @property
    def output_score(self) -> Float[np.ndarray, " features"]:
        """The mean score over the clips."""
        return self.scores.mean(axis=1)


class Asked(NamedTuple):
    """A question about clips, and how a layer is changed while the model answers it.

    Args:
        task: whose question is asked, and whose source and target are compared.
        clips: the clips to answer about.
        answers: the unsteered answer to each.
        procedure: where in the prompt the layer is changed (``positions``), in the prompt alone or also in the answer's
            beginning (``phase``), and the most rows, a clip under one change each, in one forward pass
            (``clips_per_batch``).
    """

    task: SteeringTask
    clips: Sequence[Clip]
    answers: Sequence[str]
    procedure: Procedure = Procedure()

    def about(self, rows: Sequence[int]) -> "Asked":
        """Return the same about some of the clips."""
        return self._replace(clips=[self.clips[row] for row in rows], answers=[self.answers[row] for row in rows])


class LayerEffect(NamedTuple):
    """What the difference of the class means of one layer, added there, does to the log-odds."""

    layer: int
    norm: float  # of the difference
    change: Float[np.ndarray, " clips"]  # of the log-odds of each clip of the source, in nats


class _Words(NamedTuple):
    """The first tokens of the words of both classes."""

    target: tuple[int, ...]
    source: tuple[int, ...]


def measure_effects(
    model: AudioLLM,
    coder: Dictionary,
    layer: int,
    values: Mapping[int, float],
    asked: Asked,
    ranks: Ranks = Ranks(),  # noqa: B008
) -> Effects:
    """Set each feature alone and return what that does to the answer, clip by clip.

    A feature is set as :func:`~ard.steering.steer` does with ``keep_error``: x + decode(clamped) - decode(z). With
    TopK, that includes the loss of the feature whose place it takes. The log-odds are read at the answer's position:
    behind the clip's own unsteered answer up to the word that states its class, or at its beginning if it states none.
    They are the log of the summed probabilities of all tokens with which a word of the target begins there, minus that
    of the source's. A token with which words of both begin is left out.

    The output score is that of Arad et al. 2025 (arXiv 2505.20063): of the 20 tokens that the model's final norm and
    head make of the decoder's row, the highest probability p after the feature was set, times 1 - rank / |vocabulary|
    of that token. Theirs is read behind one neutral sentence, with ten times the activation; ours at the answer's
    position, at the same values as the effect, as a mean over the clips. ``lens`` is ours: the log-odds of the task's
    words in what norm and head make of the row, without any clip.

    Args:
        model: the AudioLLM.
        coder: a dictionary of the layer.
        layer: decoder layer, 0-based.
        values: feature to the activation that it is set to.
        asked: the question, and where features are set.
        ranks: of several processes, each measures its share of the batches and has 0 for the rest.

    Raises:
        UserError: if a feature cannot be set (see :func:`~ard.steering.steer`), or no token tells the classes apart.
    """
    features = list(values)
    if coder.d_in != model.d_in:
        raise UserError(
            f"the dictionary is for a width of {coder.d_in}, and {model.name!r} is {model.d_in} wide: give one that "
            f"was trained on layer {layer} of this model"
        )
    for feature, value in values.items():
        clamp_values(coder, {feature: value})
    moves: list[Move] = [partial(_feature_move, coder, {feature: value}) for feature, value in values.items()]
    rows = coder.directions(features)
    lens = model.logit_lens(rows)
    silent = (rows.norm(dim=-1) == 0).cpu().numpy()
    question = _Question(model, asked)
    if lens is None:
        scores, of_lens = np.full((len(features), len(asked.clips)), np.nan), np.full(len(features), np.nan)
        change, norm = question.measure(layer, moves, ranks)
    else:
        tokens = lens.topk(min(NUM_LENS_TOKENS, lens.shape[1])).indices
        scores = np.zeros((len(features), len(asked.clips)))

        def read(of_moves: slice, of_clips: slice, log_p: Float[Tensor, "moves clips vocabulary"]) -> None:
            best = log_p.gather(2, tokens[of_moves, None].expand(-1, log_p.shape[1], -1)).amax(dim=2, keepdim=True)
            rank = (log_p > best).sum(dim=2)
            scores[of_moves, of_clips] = ((1 - rank / log_p.shape[2]) * best[..., 0].exp()).cpu().numpy()

        change, norm = question.measure(layer, moves, ranks, read)
        scores[silent] = 0
        counts = Counter(question.words)
        each = np.stack([_log_odds(lens, [words] * len(lens)).cpu().numpy() for words in counts])
        of_lens = np.where(silent, 0.0, np.average(each, axis=0, weights=list(counts.values())))
    return Effects(features, change, norm, scores, of_lens)


def measure_directions(
    model: AudioLLM,
    layer: int,
    directions: Float[Tensor, "directions d_in"],
    asked: Asked,
    ranks: Ranks = Ranks(),  # noqa: B008
) -> tuple[Float[np.ndarray, "directions clips"], Float[np.ndarray, "directions clips"]]:
    """Add each direction alone to the layer's output; return the change of the log-odds, and that of the norm.

    For the arguments and the log-odds see :func:`measure_effects`.

    Raises:
        UserError: if the layer does not exist, or no token tells the classes apart.
    """
    directions = directions.to(model.device)
    moves: list[Move] = [partial(_direction_move, direction) for direction in directions]
    return _Question(model, asked).measure(layer, moves, ranks)


def effect_by_layer(
    model: AudioLLM, asked: Asked, classes: Sequence[str | None], layers: Sequence[int] | None = None
) -> list[LayerEffect]:
    """Add, at one layer after the other, the difference of the class means there to the clips of the source.

    The difference is the mean of the target's clips minus the mean of the source's, each clip as the mean of its audio
    tokens. Where the answer is read from an earlier layer, adding it does nothing.

    Args:
        model: the AudioLLM.
        asked: the question about clips of both classes, a few of each are enough, and where the difference is added.
        classes: the class of each clip; clips of other classes, or None, are left out.
        layers: the layers; by default all.

    Raises:
        UserError: if there is no clip of the source or of the target, or no token tells the classes apart.
    """
    task, rows_per_batch = asked.task, asked.procedure.clips_per_batch
    wanted = list(range(len(model.layers))) if layers is None else list(layers)
    sums: dict[str, Float[Tensor, "layers d_in"]] = {}
    counts = Counter(name for name in classes if name in (task.source, task.target))
    for name in (task.source, task.target):
        of_class = [clip for clip, other in zip(asked.clips, classes, strict=True) if other == name]
        if not of_class:
            raise UserError(f"no clip is of class {name!r}: give clips of {task.source!r} and of {task.target!r}")
        for start in range(0, len(of_class), rows_per_batch):
            group = of_class[start : start + rows_per_batch]
            captured = model.capture(model.prompter(group, [task.prompt] * len(group)), wanted)
            means = torch.stack([sum_of_means(captured[layer]) for layer in wanted])
            sums[name] = sums.get(name, 0) + means / counts[name]
    differences = sums[task.target] - sums[task.source]
    source = [index for index, name in enumerate(classes) if name == task.source]
    question = _Question(model, asked.about(source))
    swept = []
    for layer, difference in zip(wanted, differences, strict=True):
        change, _ = question.measure(layer, [partial(_direction_move, difference)])
        swept.append(LayerEffect(layer, float(difference.norm()), change[0]))
    return swept


def sum_of_means(clips: Sequence[Float[Tensor, "_ d_in"]]) -> Float[Tensor, " d_in"]:
    """Return the sum over clips of the mean of their tokens."""
    return torch.stack([tokens.float().mean(dim=0) for tokens in clips]).sum(dim=0)


def per_norm(
    change: Float[np.ndarray, "features clips"], norm: Float[np.ndarray, "features clips"]
) -> Float[np.ndarray, "features clips"]:
    """Return change / norm, and 0 where the norm is 0.

    Example:
        >>> import numpy as np
        >>> from ard.steering.effects import per_norm
        >>> per_norm(np.array([[3.0, 1e-9]]), np.array([[2.0, 0.0]])).tolist()
        [[1.5, 0.0]]
    """
    return np.divide(change, norm, out=np.zeros_like(change), where=norm > 0)


def begun_answer(answer: str, judge: ClassMatch) -> tuple[str, str]:
    """Return an answer up to the word that states its class, and that word; both are empty if it states none.

    Example:
        >>> from ard.steering import ClassMatch
        >>> from ard.steering.effects import begun_answer
        >>> begun_answer("He sounds Happy.", ClassMatch(["happy", "sad"]))
        ('He sounds ', 'Happy')
    """
    (stated,) = judge([answer])
    match = judge.classes[stated].search(answer) if stated is not None else None
    return (answer[: match.start()], match[0]) if match is not None else ("", "")


class _Question:
    """A task's question about clips: where each answer's class is read, and from which tokens."""

    def __init__(self, model: AudioLLM, asked: Asked) -> None:
        task, clips, answers, self.procedure = asked
        if not clips or len(clips) != len(answers):
            raise UserError(f"{len(answers)} answers are given for {len(clips)} clips: give one for each, and a clip")
        model.check_answers()
        self.model, self.task, self.clips = model, task, clips
        judge = ClassMatch(task.question.classes)
        places = [begun_answer(answer, judge) for answer in answers]
        words = {place: _first_tokens(model, task, *place) for place in dict.fromkeys(places)}
        self.begun = [before.rstrip() for before, _ in places]
        self.words = [words[place] for place in places]

    def measure(
        self,
        layer: int,
        moves: Sequence[Move],
        ranks: Ranks = Ranks(),  # noqa: B008
        read: Callable[[slice, slice, Float[Tensor, "moves clips vocabulary"]], None] | None = None,
    ) -> tuple[Float[np.ndarray, "moves clips"], Float[np.ndarray, "moves clips"]]:
        """Return the change of the log-odds under each move alone, and the norm of the change that it makes.

        A rank measures its share of the batches; what others measure is 0. ``read`` is shown the log probabilities of
        the next token, batch by batch, with the moves and clips of each.
        """
        change, norm = np.zeros((2, len(moves), len(self.clips)))
        where, most = (self.procedure.positions, self.procedure.phase), self.procedure.clips_per_batch
        batches = [
            (of_clips, of_moves)
            for of_clips in _slices(len(self.clips), most)
            for of_moves in _slices(len(moves), max(1, most // (of_clips.stop - of_clips.start)))
        ]
        for of_clips, of_rank in groupby(ranks.mine(batches), key=itemgetter(0)):
            begun, words = self.begun[of_clips], self.words[of_clips]
            prompts = self.model.prompter(self.clips[of_clips], [self.task.prompt] * len(begun))
            with self.model.computed_once(layer):
                plain = _log_odds(self.model.next_token(prompts, begun), words)
                for _, of_moves in of_rank:
                    batch = moves[of_moves]
                    with _moved(self.model, layer, batch, *where) as norms:
                        log_p = self.model.next_token(prompts, begun, times=len(batch))
                    moved = _log_odds(log_p, words * len(batch)).view(len(batch), -1)
                    change[of_moves, of_clips] = (moved - plain).cpu().numpy()
                    norm[of_moves, of_clips] = norms[0].view(len(batch), -1).cpu().numpy()
                    if read is not None:
                        read(of_moves, of_clips, log_p.unflatten(0, (len(batch), -1)))
        return change, norm


def _slices(num: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, num)) for start in range(0, num, size)]


@contextmanager
def _moved(
    model: AudioLLM, layer: int, moves: Sequence[Move], positions: Where, phase: Phase
) -> Iterator[list[Float[Tensor, " rows"]]]:
    """Make each move in its own share of a batch's rows, which are equal shares in the order of the moves.

    Yields a list that the pass fills with the norm of each row's change: a mean over the positions that change.
    """
    norms: list[Float[Tensor, " rows"]] = []

    def change(x: Float[Tensor, "rows positions d_in"], at: Positions) -> Float[Tensor, "rows positions d_in"]:
        where, moved = _set_positions(at, positions, phase), x.clone()
        size = x.new_zeros(x.shape[:2], dtype=torch.float32)
        for rows, move in zip(torch.arange(len(x), device=x.device).chunk(len(moves)), moves, strict=True):
            mine = torch.zeros_like(where)
            mine[rows] = where[rows]
            dx = move(x[mine])
            moved[mine] = (x[mine].to(dx.dtype) + dx).to(x.dtype)
            size[mine] = dx.float().norm(dim=-1)
        norms[:] = [size.sum(dim=1) / (size > 0).sum(dim=1).clamp_min(1)]
        return moved

    with model.intervene(layer, change):
        yield norms


def _feature_move(
    coder: Dictionary, clamp: Mapping[int, float], x: Float[Tensor, "tokens d_in"]
) -> Float[Tensor, "tokens d_in"]:
    """Return decode(clamped) - decode(z), and 0 where that is no more than the rounding of two sums of codes."""
    plain, clamped = coder.encode_both(_as_weights(coder, x), clamp)
    before, after = coder.decode(plain), coder.decode(clamped)
    rounding = torch.finfo(before.dtype).eps * clamped.values.shape[1] * before.norm(dim=-1, keepdim=True)
    dx = after - before
    return dx * (dx.norm(dim=-1, keepdim=True) > rounding)


def _direction_move(direction: Float[Tensor, " d_in"], x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
    return direction.expand_as(x)


def _log_odds(log_p: Float[Tensor, "rows vocabulary"], words: Sequence[_Words]) -> Float[Tensor, " rows"]:
    """Return the log-odds of the target's first tokens against the source's."""
    pairs = zip(log_p, words, strict=True)
    return torch.stack([row[[*w.target]].logsumexp(dim=0) - row[[*w.source]].logsumexp(dim=0) for row, w in pairs])


def _first_tokens(model: AudioLLM, task: SteeringTask, before: str, stated: str) -> _Words:
    """Return with which tokens the words of both classes begin in the place of the word that an answer states.

    They are spelt with its capitals. At the beginning of an answer, they may follow a space.

    Raises:
        UserError: if a class has no token of its own.
    """
    begun = before.rstrip()
    spaces = [before[len(begun) :]] if begun else ["", " "]
    spell = str.capitalize if stated[:1].isupper() else str.lower if stated else str
    known = model.tokens([begun])[0].tolist()

    def begin(name: str) -> dict[int, None]:
        texts = [begun + space + spell(word) for word in task.question.classes[name] for space in spaces]
        tokens = [text.tolist() for text in model.tokens(texts)]
        return dict.fromkeys(t[len(known)] for t in tokens if len(t) > len(known) and t[: len(known)] == known)

    target, source = begin(task.target), begin(task.source)
    words = _Words(tuple(t for t in target if t not in source), tuple(s for s in source if s not in target))
    if not (words.target and words.source):
        raise UserError(
            f"the words of {task.target!r} and {task.source!r} begin with the same tokens of {model.name!r} behind "
            f"{begun!r}, so no token tells them apart: give the classes other words"
        )
    return words
