"""Train the small CLAP: ``python -m experiments.embedded.train_clap``."""

import logging
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from jaxtyping import Bool, Float
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import AutoProcessor, ClapConfig, ClapModel, ClapProcessor, PreTrainedTokenizerFast

from experiments.embedded.cards import record_training
from experiments.embedded.features import NUM_MELS, Features, clap_features
from experiments.embedded.training import one_cycle, options, start, train
from experiments.embedded.wording import all_texts, near_miss, say

MAX_TOKENS = 64


def build_processor(texts: list[str]) -> ClapProcessor:
    """The feature extractor, and a lower-casing byte-level BPE tokenizer of RoBERTa's kind."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=768,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bpe.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
    )
    return ClapProcessor(clap_features(), tokenizer)


def build_model(vocab_size: int) -> ClapModel:
    """A Swin of three stages over patches of 8 by 8, and two RoBERTa layers, weights at random."""
    return ClapModel(
        ClapConfig(
            audio_config={
                "num_mel_bins": NUM_MELS,
                "spec_size": 128,
                "patch_size": 8,
                "patch_stride": [8, 8],
                "window_size": 4,
                "patch_embeds_hidden_size": 64,
                "hidden_size": 256,
                "depths": (2, 2, 2),
                "num_attention_heads": (2, 4, 8),
                "num_hidden_layers": 3,
                "hidden_dropout_prob": 0.05,
            },
            text_config={
                "vocab_size": vocab_size,
                "hidden_size": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 192,
                "max_position_embeddings": MAX_TOKENS + 2,
                "pad_token_id": 1,
                "bos_token_id": 0,
                "eos_token_id": 2,
            },
            projection_dim=128,
        )
    )


class Pairs:
    """Turns clip numbers into a batch of spectrograms and texts, and says which text is false of which clip."""

    def __init__(self, features: Features, processor: ClapProcessor, *, num_misses: int, seed: int) -> None:
        self.features = features
        self.processor = processor
        self.num_misses = num_misses
        self.rng = np.random.default_rng(seed)

    def __call__(self, clips: list[int]) -> dict[str, Tensor]:
        """``negative[i, j]``: text j must not be near clip i.

        A text that tells all of its own clip is false of clips with more in them; one that tells a part is true there.
        """
        scenes = [self.features.scenes[clip] for clip in clips]
        missed = [near_miss(self.rng, scene) for scene in scenes for _ in range(self.num_misses)]
        said = [[say(self.rng, scene) for scene in scenes] for _ in range(2)]
        texts = [*(text for texts in said for text, _ in texts), *(scene.caption for scene in missed)]
        encoded = self.processor.tokenizer(texts, padding=True, return_tensors="pt")
        heard = [frozenset(scene.labels) for scene in scenes]
        whole = [told == labels for (_, told), labels in zip(said[0], heard, strict=True)]
        told = [labels for _, labels in said[0]]
        return {
            "input_features": torch.from_numpy(self.features.clap[clips].astype(np.float32))[:, None],
            "input_ids": encoded["input_ids"],
            "attention_mask": encoded["attention_mask"],
            "negative": torch.tensor(
                [
                    [told[j] != heard[i] if whole[j] else not told[j] <= heard[i] for j in range(len(clips))]
                    for i in range(len(clips))
                ]
            ),
            "missed": torch.tensor([[frozenset(scene.labels) != labels for scene in missed] for labels in heard]),
            "reworded": torch.tensor([[a == b for _, b in said[1]] for _, a in said[0]]),
        }


def info_nce(
    similarities: Float[Tensor, "rows columns"],
    negative: Bool[Tensor, "rows columns"],
    further: Float[Tensor, "rows further"] | None = None,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE whose positives are on the diagonal; what is neither positive nor negative is left out.

    ``further`` are similarities of the rows to columns that are no row's positive; minus infinity leaves one out.
    """
    kept = negative | torch.eye(len(negative), dtype=torch.bool, device=negative.device)
    logits = similarities.masked_fill(~kept, -1e4)
    target = torch.arange(len(logits), device=logits.device)
    wide = logits if further is None else torch.cat([logits, further], dim=1)
    return (cross_entropy(wide, target) + cross_entropy(logits.T, target)) / 2


class ClapTraining(lightning.LightningModule):
    """Symmetric InfoNCE between clips and texts, and between two wordings where both tell the same labels.

    Captions that are wrong in one thing stand among the texts, or a batch would ask too little of the mixtures.
    """

    def __init__(self, model: ClapModel, *, learning_rate: float, num_steps: int) -> None:
        super().__init__()
        self.model = model
        self.learning_rate = learning_rate
        self.num_steps = num_steps

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """One loss for the clips, a smaller one for the words."""
        features = batch["input_features"]
        longer = torch.zeros(len(features), 1, dtype=torch.bool, device=self.device)
        audio = self.model.get_audio_features(input_features=features, is_longer=longer).pooler_output
        both = self.model.get_text_features(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        text, reworded, missed = both.pooler_output.tensor_split((len(audio), 2 * len(audio)))
        scale = self.model.logit_scale_a.exp().clamp(max=50)
        near = (scale * audio @ missed.T).masked_fill(~batch["missed"], -torch.inf)
        clips = info_nce(scale * audio @ text.T, batch["negative"], near)
        same = batch["reworded"].diagonal()
        words = info_nce((scale * text @ reworded.T)[same][:, same], ~batch["reworded"][same][:, same])
        if batch_idx % 50 == 0:
            logging.info("step %d: clips %.3f, words %.3f", self.global_step, clips.item(), words.item())
        return clips + 0.2 * words

    def configure_optimizers(self) -> Any:
        """AdamW, one cycle of the learning rate."""
        return one_cycle(self.parameters(), self.learning_rate, self.num_steps)


def main() -> None:
    """Train and save; ``experiments.embedded.cards`` measures and writes the card."""
    parser = options(__doc__, "ard/embedding/embedded", num_steps=1800, batch_size=64, learning_rate=1.2e-3)
    parser.add_argument("--num-misses", type=int, default=1, help="captions a clip that are wrong in one thing")
    parser.add_argument("--start-from", type=Path, help="go on from the model in this folder")
    args = parser.parse_args()
    features = start(args)
    if args.start_from:
        processor = AutoProcessor.from_pretrained(args.start_from)
        model = ClapModel.from_pretrained(args.start_from)
    else:
        processor = build_processor(all_texts(features.scenes))
        model = build_model(len(processor.tokenizer))
    module = ClapTraining(model, learning_rate=args.learning_rate, num_steps=args.num_steps)
    loader: DataLoader[int] = DataLoader(
        range(args.num_clips),  # type: ignore[arg-type]  # a range is a data set of clip numbers
        batch_size=args.batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=Pairs(features, processor, num_misses=args.num_misses, seed=args.seed),
    )
    wall_time_s = train(module, loader, args.num_steps)
    module.model.save_pretrained(args.out)
    processor.save_pretrained(args.out)
    record_training(args.out, vars(args), wall_time_s=wall_time_s, start_from=args.start_from)


if __name__ == "__main__":
    main()
