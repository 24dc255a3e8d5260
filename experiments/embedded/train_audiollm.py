"""Train the small AudioLLM: ``python -m experiments.embedded.train_audiollm``."""

import logging
from collections.abc import Iterator
from typing import Any

import lightning
import numpy as np
import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Sampler
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
)

from ard.audio.synthetic import LABELS
from experiments.embedded.cards import record_training
from experiments.embedded.features import NUM_MELS, WINDOW_S, Features, audiollm_features
from experiments.embedded.training import one_cycle, options, start, train
from experiments.embedded.wording import all_texts, ask

SYSTEM = "You are a helpful assistant."
CHAT_TEMPLATE = (
    "{% set audio_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n" + SYSTEM + "<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if 'audio' in content or 'audio_url' in content or content['type'] == 'audio' %}"
    "{% set audio_count.value = audio_count.value + 1 %}"
    "Audio {{ audio_count.value }}: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2-Audio's own."""


def build_processor(texts: list[str]) -> Qwen2AudioProcessor:
    """The feature extractor, and a byte-level BPE tokenizer trained on what may be said."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=768,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*texts, *(100 * [SYSTEM, "Audio 1: ", "user\n", "system\n", "assistant\n"])], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=special[0],
        eos_token=special[2],
        additional_special_tokens=[special[1], *special[3:]],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    return Qwen2AudioProcessor(audiollm_features(), tokenizer, chat_template=CHAT_TEMPLATE)


def build_model(processor: Qwen2AudioProcessor) -> Qwen2AudioForConditionalGeneration:
    """Three encoder and six decoder layers of width 128, weights at random."""
    tokenizer = processor.tokenizer
    tokens = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": NUM_MELS,
            "d_model": 128,
            "encoder_layers": 3,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 256,
            "max_source_positions": WINDOW_S * 50,
            "dropout": 0.05,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 1024,
            "bos_token_id": None,
            **tokens,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    model = Qwen2AudioForConditionalGeneration(config)
    positions = model.model.audio_tower.embed_positions.weight
    with torch.no_grad():
        positions.copy_(_sinusoids(*positions.shape))
    model.requires_grad_(True)
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=48, **tokens)
    return model


def _sinusoids(length: int, channels: int) -> Float[Tensor, "positions channels"]:
    angles = torch.arange(length)[:, None] * torch.exp(
        -torch.arange(channels // 2) * np.log(10_000) / (channels // 2 - 1)
    )
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Conversations:
    """Turns clip numbers into a batch: one question a clip, drawn anew each time; the loss is on the answer alone."""

    def __init__(self, features: Features, processor: Qwen2AudioProcessor, *, seed: int) -> None:
        self.features = features
        self.processor = processor
        self.rng = np.random.default_rng(seed)

    def __call__(self, clips: list[int]) -> dict[str, Tensor]:
        """Pad on the right: what follows an answer cannot be seen from it."""
        ids, labels = map(list, zip(*(self._conversation(clip) for clip in clips), strict=True))
        pad = self.processor.tokenizer.pad_token_id
        frames = torch.from_numpy(self.features.num_frames[clips])
        heard = [[label in self.features.scenes[clip].labels for label in LABELS] for clip in clips]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
            "input_features": torch.from_numpy(self.features.audiollm[clips].astype(np.float32)),
            "feature_attention_mask": (torch.arange(self.features.audiollm.shape[2]) < frames[:, None]).long(),
            "heard": torch.tensor(heard, dtype=torch.float32),
        }

    def _conversation(self, clip: int) -> tuple[Tensor, Tensor]:
        prompt, answer = ask(self.rng, self.features.scenes[clip])
        asked: Any = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": prompt}]}]
        text = self.processor.apply_chat_template(asked, add_generation_prompt=True)
        num_tokens = (int(self.features.num_frames[clip] - 1) // 2 + 1 - 2) // 2 + 1
        encode = self.processor.tokenizer.encode
        question = encode(text.replace("<|AUDIO|>", "<|AUDIO|>" * num_tokens))
        reply = encode(answer + self.processor.tokenizer.eos_token)
        return torch.tensor(question + reply), torch.tensor([-100] * len(question) + reply)


class SimilarLengths(Sampler[list[int]]):
    """Batches of clips of about one length, in random order: less padding, so a quarter less to compute."""

    def __init__(self, num_frames: Int[np.ndarray, " clips"], batch_size: int, *, seed: int) -> None:
        self.num_frames = num_frames
        self.batch_size = batch_size
        self.rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.num_frames) // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        clips = self.rng.permutation(len(self.num_frames))
        pools = np.array_split(clips, max(1, len(clips) // (20 * self.batch_size)))
        ordered = np.concatenate([pool[np.argsort(self.num_frames[pool])] for pool in pools])
        batches = ordered[: len(self) * self.batch_size].reshape(-1, self.batch_size)
        yield from self.rng.permutation(batches).tolist()


class AudioLLMTraining(lightning.LightningModule):
    """Answers by cross-entropy; an auxiliary head, thrown away later, asks the audio tokens for the clip's labels.

    The encoder starts from random weights, where Qwen2-Audio starts from a trained one: the head gives it something to
    learn before the decoder can listen.
    """

    def __init__(self, model: Qwen2AudioForConditionalGeneration, *, learning_rate: float, num_steps: int) -> None:
        super().__init__()
        self.model = model
        self.learning_rate = learning_rate
        self.num_steps = num_steps
        self.head = nn.Linear(model.model.multi_modal_projector.linear.out_features, len(LABELS))
        model.model.multi_modal_projector.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: tuple[Tensor, ...], audio: Tensor) -> None:
        self.audio = audio

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Both losses."""
        heard = batch.pop("heard")
        answers = self.model(**batch).loss
        frames = batch["feature_attention_mask"].sum(dim=1, keepdim=True)
        real = torch.arange(self.audio.shape[1], device=self.device) < ((frames - 1) // 2 - 1) // 2 + 1
        scores = self.head(self.audio).masked_fill(~real[..., None], -1e4)
        pooled = torch.logsumexp(scores, dim=1) - real.sum(dim=1, keepdim=True).log()
        labels = binary_cross_entropy_with_logits(pooled, heard) * 10
        if batch_idx % 50 == 0:
            logging.info("step %d: answers %.3f, labels %.3f", self.global_step, answers.item(), labels.item())
        return answers + labels

    def configure_optimizers(self) -> Any:
        """AdamW without decay on gains and biases, one cycle of the learning rate."""
        matrices = [p for p in self.parameters() if p.ndim > 1]
        vectors = [p for p in self.parameters() if p.ndim <= 1]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        return one_cycle(groups, self.learning_rate, self.num_steps)


def main() -> None:
    """Train and save; ``experiments.embedded.cards`` measures and writes the card."""
    parser = options(__doc__, "ard/audiollm/embedded", num_steps=1500, batch_size=32, learning_rate=1.5e-3)
    args = parser.parse_args()
    features = start(args)
    processor = build_processor(all_texts(features.scenes))
    module = AudioLLMTraining(build_model(processor), learning_rate=args.learning_rate, num_steps=args.num_steps)
    loader: DataLoader[int] = DataLoader(
        range(args.num_clips),  # type: ignore[arg-type]  # a range is a data set of clip numbers
        batch_sampler=SimilarLengths(features.num_frames, args.batch_size, seed=args.seed),
        collate_fn=Conversations(features, processor, seed=args.seed),
    )
    wall_time_s = train(module, loader, args.num_steps)
    module.model.save_pretrained(args.out)
    processor.save_pretrained(args.out)
    record_training(args.out, vars(args), wall_time_s=wall_time_s)


if __name__ == "__main__":
    main()
