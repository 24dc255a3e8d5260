"""The AudioLLM: one interface over the models of every family."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from inspect import signature
from typing import Any, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ard.audiollm.encoders import LENGTH
from ard.audiollm.frames import needed_frames, padded_encoder
from ard.audiollm.generation import Watched
from ard.audiollm.hooks import replace_output, stop_after
from ard.audiollm.layers import decoder_of, find_layers
from ard.audiollm.prompter import AudioPrompter, AudioPrompts, Tokens, frame_mask, where
from ard.audiollm.reuse import Asked, computed_once
from ard.types import Clip, UserError


class Positions(NamedTuple):
    """What is at each position of a layer's output during one pass."""

    valid: Bool[Tensor, "clips positions"]  # False on padding
    audio: Bool[Tensor, "clips positions"]  # True on audio tokens, or on what stands for sound in an encoder
    prompt: Bool[Tensor, "clips positions"]  # True on the prompt, False on the model's own answer


Change = Callable[[Float[Tensor, "clips positions d_in"], Positions], Float[Tensor, "clips positions d_in"]]


class AudioLLM:
    """A model that takes audio, with only what the pipeline needs of it.

    ``layers`` are the layers that can be captured or changed, indexed from 0; ``prompter`` makes the model's input.

    Args:
        model: the network; if it is only an encoder, which cannot answer, nothing else is kept.
        prompter: the same model's prompter.
        name: the user's name for it.
        layers_path: module path of the layers; by default the decoder's, or an encoder's longest list of layers.

    Raises:
        UserError: if there are no such layers, or their positions cannot be identified.
    """

    def __init__(self, model: nn.Module, prompter: AudioPrompter, name: str, layers_path: str | None = None) -> None:
        self.prompter = prompter
        self.name = name
        self.layers, self._stack = find_layers(model, prompter, name, layers_path)
        self._encoder = prompter.encoder
        self._at_frames = self._encoder is None and self._stack is not decoder_of(model, prompter)
        self.model: Any = (model if self._encoder is None else self._stack).eval()
        if self._encoder is not None:
            self.model.register_forward_pre_hook(_without_length, with_kwargs=True)
        self._tower = None if self._at_frames else padded_encoder(model)
        self._asked: Asked | None = None  # set while the model answers
        self._keeps_few_logits = "logits_to_keep" in signature(self.model.forward).parameters

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.model.device

    @property
    def d_in(self) -> int:
        """Width of the residual stream."""
        return self._stack.config.hidden_size if self._encoder is None else self._encoder.d_in

    @property
    def answers(self) -> bool:
        """Whether the model answers questions; an encoder only hears."""
        return self._encoder is None

    def check_layers(self, layers: Sequence[int]) -> None:
        """Refuse layers that do not exist.

        Raises:
            UserError: if one of them does not exist.
        """
        for layer in layers:
            if not 0 <= layer < len(self.layers):
                raise UserError(
                    f"layer {layer} does not exist in {self.name!r}: it has layers 0 to {len(self.layers) - 1}"
                )

    @property
    def reads(self) -> bool:
        """Whether its layers hold text beside sound: those of a decoder do, those of an audio encoder do not."""
        return self.answers and not self._at_frames

    def check_tokens(self, tokens: str) -> None:
        """Refuse tokens that the layers do not have.

        Raises:
            UserError: if they are of no known kind, or they are of text and the layers are an encoder's.
        """
        if tokens not in get_args(Tokens):
            raise UserError(f"tokens {tokens!r} is unknown: give one of {', '.join(get_args(Tokens))}")
        if tokens != "audio" and not self.reads:
            raise UserError(
                f"tokens {tokens!r} needs layers that read text, and those of {self.name!r} "
                f"({self.prompter.model_type}) are an audio encoder's: give audio, or an AudioLLM's decoder"
            )

    @torch.inference_mode()
    def capture(
        self, clips: Sequence[Clip] | AudioPrompts, layers: Sequence[int], tokens: Tokens = "audio"
    ) -> dict[int, list[Tensor]]:
        """Return the residual stream after each wanted layer at tokens of every clip's prompt, from one partial pass.

        Tokens are in the order of the prompt. Of an encoder, they are the positions that stand for sound, in order of
        time and then of frequency.

        Returns:
            Layer index to one tensor [tokens, d_in] for each clip, in the model's dtype and on its device.

        Raises:
            UserError: if a layer does not exist, it has no such tokens, or its positions do not match the prompts.
        """
        self.check_layers(layers)
        self.check_tokens(tokens)
        batch = clips if isinstance(clips, AudioPrompts) else self.prompter(clips)
        if self._encoder is None:
            return self._capture(batch, layers, tokens)
        num_clips = len(batch.audio)
        lone = [slice(clip, clip + 1) for clip in range(num_clips)] if self._encoder.alone else [slice(num_clips)]
        parts = [self._capture(batch.part(clips), layers, tokens) for clips in lone]
        return {layer: [x for part in parts for x in part[layer]] for layer in layers}

    def _capture(self, batch: AudioPrompts, layers: Sequence[int], tokens: Tokens) -> dict[int, list[Tensor]]:
        """Capture a batch in one pass."""
        features = self._inputs(batch.features)
        positions = self.positions(features)
        order: Any = slice(None)
        with ExitStack() as stack:
            if self._encoder is None:
                needed = stack.enter_context(needed_frames(self._tower, features)) | {"use_cache": False}
            else:
                stack.enter_context(self._encoder.fitted(self.model, features))
                needed, order = features, self._encoder.moments(features).argsort(stable=True).to(self.device)
            captured = stack.enter_context(stop_after(self.layers, tuple(layers)))
            self.model(**needed)
        at = self._at(positions, captured[layers[0]])
        if len(at.audio) != len(batch.audio):
            raise UserError(
                f"{self.name!r} ({self.prompter.model_type}) hears one of these clips in several windows: cut them to "
                "one, or capture layers of its decoder (leave layers_path out)"
            )
        wanted = where(tokens, at.valid, at.audio)[:, order]
        lengths = wanted.sum(dim=1).tolist()
        rows = wanted.flatten().nonzero()[:, 0]  # once for all clips and layers: a GPU is waited for
        ordered = {layer: captured[layer][:, order].flatten(0, 1) for layer in layers}
        return {layer: list(x.index_select(0, rows).split(lengths)) for layer, x in ordered.items()}

    @torch.inference_mode()
    def generate(
        self,
        clips: Sequence[Clip] | AudioPrompts,
        prompts: Sequence[str] | None = None,
        max_new_tokens: int = 64,
        *,
        num_beams: int = 1,
        num_answers: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
        watch: Callable[[list[str]], None] | None = None,
    ) -> list[str]:
        """Answer one question about each clip; return the answers without special tokens, clip by clip.

        Args:
            clips: the clips, or the prompts that the prompter made of them and their questions.
            prompts: a question for each clip, unless ``clips`` already holds the questions.
            max_new_tokens: most tokens in an answer.
            num_beams: beams of the search; 1 is greedy.
            num_answers: answers to each question: the likeliest beams, best first, or as many draws.
            temperature: temperature at which to draw each token; 0 draws nothing.
            seed: seed for the draws, which leave torch's own generators unchanged.
            watch: is called with the answers so far after every token; what it raises ends them. With several beams,
                these are the beams.

        Raises:
            UserError: if the model is an encoder, or more answers than beams are wanted without draws.
        """
        self.check_answers()
        if temperature == 0 and num_answers > num_beams:
            raise UserError(
                f"{num_answers} answers need at least as many beams, but num_beams is {num_beams}: give more, or a "
                "temperature above 0"
            )
        batch = clips if isinstance(clips, AudioPrompts) else self.prompter(clips, prompts)
        features = self._inputs(batch.features)
        draws = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        answers: dict[str, Any] = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
        answers["num_return_sequences"] = num_answers
        start = batch.valid.shape[1]
        if watch is not None:
            answers["stopping_criteria"] = [Watched(lambda tokens: watch(self._texts(tokens)), start)]
        with (
            self._answering(batch),
            needed_frames(self._tower, features) as needed,
            torch.random.fork_rng(range(torch.cuda.device_count()), enabled=temperature > 0),
        ):
            if temperature > 0:
                torch.manual_seed(seed)
            tokens = self.model.generate(**needed, **answers, **draws)
        return self._texts(tokens[:, start:])

    @torch.inference_mode()
    def log_likelihood(self, prompts: AudioPrompts, answers: Sequence[str]) -> list[Float[Tensor, " tokens"]]:
        """Return the log probability of every token of an answer to each prompt, from one pass, on the CPU.

        An answer's tokens are those of its text alone, without special tokens; an empty answer has none.

        Raises:
            UserError: if the model is an encoder.
        """
        tokens = self.tokens(answers)
        if not any(map(len, tokens)):
            return [torch.empty(0) for _ in answers]
        before = self._logits_from_the_prompt_on(prompts, tokens)[:, :-1].cpu().float()  # one position before a token
        each = before.log_softmax(dim=-1).gather(-1, pad_sequence(tokens, batch_first=True)[..., None])[..., 0]
        return [log_p[: len(answer)] for log_p, answer in zip(each, tokens, strict=True)]

    @torch.inference_mode()
    def next_token(
        self, prompts: AudioPrompts, begun: Sequence[str], *, times: int = 1
    ) -> Float[Tensor, "rows vocabulary"]:
        """Return the log probability of every token to come next, from one pass, on the model's device.

        Args:
            prompts: clips and questions.
            begun: the beginning of the answer to each prompt; it may be empty.
            times: how often the whole batch is in the pass, one copy behind the other, to be changed differently.

        Raises:
            UserError: if the model is an encoder.
        """
        tokens = self.tokens(begun)
        logits = self._logits_from_the_prompt_on(prompts, tokens, times)
        lengths = torch.tensor([len(beginning) for beginning in tokens] * times, device=logits.device)
        return logits[torch.arange(len(lengths), device=logits.device), lengths].float().log_softmax(dim=-1)

    @torch.inference_mode()
    def logit_lens(self, x: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows vocabulary"] | None:
        """Return the log probability of every token that the final norm and the head alone make of residual streams.

        None if the layers are not the decoder's, which the head reads.
        """
        if not self.reads:
            return None
        decoder: Any = self._stack
        logits: Tensor = self.model.get_output_embeddings()(decoder.norm(x.to(self.device, self.model.dtype)))
        if (cap := getattr(decoder.config, "final_logit_softcapping", None)) is not None:  # of Gemma
            logits = cap * (logits / cap).tanh()
        return logits.float().log_softmax(dim=-1)

    def tokens(self, texts: Sequence[str]) -> list[Int[Tensor, " _"]]:
        """Return the tokens of each text alone, without special tokens.

        Raises:
            UserError: if the model is an encoder.
        """
        self.check_answers()
        tokenizer = self.prompter.processor.tokenizer
        return [torch.tensor(tokenizer(text, add_special_tokens=False).input_ids, dtype=torch.int64) for text in texts]

    def _logits_from_the_prompt_on(
        self, prompts: AudioPrompts, answers: Sequence[Int[Tensor, " _"]], times: int = 1
    ) -> Float[Tensor, "rows positions vocabulary"]:
        """Return the logits at the last position of the prompts, and at those of the answers, padded on the right."""
        features: Mapping[str, Tensor] = prompts.features
        longest = max(map(len, answers))
        if longest:
            ids = pad_sequence(list(answers), batch_first=True)
            suffix = {"input_ids": ids, "attention_mask": pad_sequence([torch.ones_like(t) for t in answers], True)}
            if "token_type_ids" in features:
                suffix["token_type_ids"] = torch.zeros_like(ids)  # text
            features = {**features, **{name: torch.cat([features[name], x], dim=1) for name, x in suffix.items()}}
        features = {name: torch.cat([tensor] * times) for name, tensor in features.items()}
        keep = {"logits_to_keep": longest + 1} if self._keeps_few_logits else {}
        with self._answering(prompts, tuple(tuple(answer.tolist()) for answer in answers), times):
            logits: Tensor = self.model(**self._inputs(features), use_cache=False, **keep).logits
        return logits[:, -longest - 1 :]

    @contextmanager
    def intervene(self, layer: int, change: Change) -> Iterator[None]:
        """Replace a layer's output by ``change`` of it in every pass inside the block; no hook outlives the block.

        ``change`` also receives what is at each position. This does not depend on the shape of x: it holds without a
        cache, where every pass contains the prompt and the answer so far, and for prompts of one token. In passes not
        made by this class, all that precedes a filled cache is the prompt.

        Raises:
            UserError: if the layer does not exist, or its positions do not match the prompts.
        """
        self.check_layers([layer])
        now: list[Positions | None] = []

        def note_positions(_module: nn.Module, _args: Any, inputs: dict[str, Any]) -> None:
            now[:] = [self.positions(inputs)]

        def changed(x: Float[Tensor, "clips positions d_in"]) -> Float[Tensor, "clips positions d_in"]:
            return change(x, self._at(now[0], x))

        handle = self.model.register_forward_pre_hook(note_positions, with_kwargs=True, prepend=True)
        try:
            with replace_output(self.layers[layer], changed):
                yield
        finally:
            handle.remove()

    @contextmanager
    def computed_once(self, layer: int) -> Iterator[None]:
        """Compute what comes before a layer's end once for all answers to the same prompts in the block.

        Only what comes after may be changed there: :meth:`intervene` at this layer or above. This holds for
        :meth:`generate`, and for :meth:`next_token` and :meth:`log_likelihood` of the same texts.

        Raises:
            UserError: if the layer does not exist.
        """
        self.check_layers([layer])
        with computed_once(self._tower, self.layers, layer, lambda: self._asked) if self.reads else nullcontext():
            yield

    def check_answers(self) -> None:
        """Refuse to ask an encoder.

        Raises:
            UserError: if the model is one.
        """
        if not self.answers:
            raise UserError(f"{self.name!r} ({self.prompter.model_type}) is an encoder, which cannot answer")

    @contextmanager
    def _answering(
        self, prompts: AudioPrompts, suffix: tuple[tuple[int, ...], ...] = (), times: int = 1
    ) -> Iterator[None]:
        """Remember where the prompts end: what follows is the model's own answer."""
        self._asked = Asked(prompts, suffix, times)
        try:
            yield
        finally:
            self._asked = None

    def _texts(self, tokens: Int[Tensor, "rows tokens"]) -> list[str]:
        return [text.strip() for text in self.prompter.processor.batch_decode(tokens, skip_special_tokens=True)]

    def _inputs(self, features: Mapping[str, Tensor]) -> dict[str, Any]:
        kinds = {name: self.model.dtype if x.is_floating_point() else x.dtype for name, x in features.items()}
        return {name: x.to(self.device, kinds[name]) for name, x in features.items()}

    def positions(self, inputs: Mapping[str, Any]) -> Positions | None:
        """Return what is at each position of a pass, from the model's input; None if the input does not tell."""
        if self._encoder is not None:
            valid, audio = self.prompter.heard_positions(inputs)
            return Positions(valid, audio, torch.ones_like(valid))
        if self._at_frames:
            frames = frame_mask(inputs)
            return None if frames is None else Positions(frames, frames, torch.ones_like(frames))
        ids, attention, cache = inputs["input_ids"], inputs.get("attention_mask"), inputs.get("past_key_values")
        past = 0 if cache is None else cache.get_seq_length()
        valid = torch.ones_like(ids, dtype=torch.bool) if attention is None else attention[:, -ids.shape[1] :].bool()
        asked = 0 if self._asked is None else self._asked.prompts.valid.shape[1]
        prompt_length = asked or (ids.shape[1] if past == 0 else 0)
        prompt = (past + torch.arange(ids.shape[1], device=ids.device) < prompt_length).expand_as(ids)
        return Positions(valid, (ids == self.prompter.audio_token_id) & valid & prompt, prompt)

    def _at(self, positions: Positions | None, x: Tensor) -> Positions:
        """Return the positions if they match x; refuse them otherwise."""
        if positions is None or x.shape[:-1] != positions.valid.shape:
            raise UserError(
                f"cannot identify the positions of these layers of {self.name!r} ({self.prompter.model_type}): they "
                f"return {list(x.shape)}, and the prompts have "
                f"{'no frame mask' if positions is None else list(positions.valid.shape)}. "
                "Leave layers_path out, or give the decoder's"
            )
        return positions


def _without_length(_network: nn.Module, args: Any, features: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Keep the entry that only says where sound is from an encoder."""
    return args, {name: x for name, x in features.items() if name != LENGTH}
