"""A language model in this process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ard.audiollm import keep_plain_options, widen_on_cpu
from ard.console import at_work
from ard.hub import TOKENIZERS, ensure_models, offline_if_cached
from ard.naming.chat import CUT, EMPTY, Chat, Content, Keep, Reply
from ard.types import UserError


class TransformersChat(Chat):
    """An instruction model in this process, through transformers: its own chat template, batched, greedy.

    The model is loaded when there are prompts to answer, and released afterwards. A model that does not fit the device
    needs an endpoint (:class:`EndpointChat`).

    Args:
        model: a local folder or a hub id.
        cache: where answers are kept (JSON lines); several chats may share it.
        max_tokens: length limit of an answer, in tokens.
        prompts_per_batch: prompts answered at once.
        device: where it runs; ``auto`` is a GPU if there is one.
        dtype: dtype of the weights; ``auto`` is that of the checkpoint, or on a CPU float32 if it fits into memory.
    """

    def __init__(
        self,
        model: str,
        *,
        cache: Path,
        max_tokens: int = 128,
        prompts_per_batch: int = 16,
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        super().__init__(model, cache, max_tokens)
        self.prompts_per_batch, self.dtype = prompts_per_batch, dtype
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device

    def check(self) -> None:
        """Fail now rather than after hours of other work, if there is no such model; it is fetched, and not loaded."""
        self._tokenizer()

    @torch.inference_mode()
    def _ask(self, prompts: Mapping[str, Content], keep: Keep) -> None:
        """Answer prompts of similar length together."""
        tokenizer, network = self._tokenizer(), self._network()
        keys = sorted(prompts, key=lambda key: len(prompts[key]))
        for start in range(0, len(keys), self.prompts_per_batch):
            batch = keys[start : start + self.prompts_per_batch]
            inputs = tokenizer.apply_chat_template(
                [self._request(prompts[key])["messages"] for key in batch],
                add_generation_prompt=True,
                padding=True,
                return_dict=True,
                return_tensors="pt",
            ).to(self.device)
            tokens = network.generate(
                **inputs,
                max_new_tokens=self.parameters["max_tokens"],
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
            for key, new in zip(batch, tokens[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                keep(key, self._reply(tokenizer, network, new))

    def _reply(self, tokenizer: Any, network: Any, new: list[int]) -> Reply:
        """Return the generated text up to its end token, including the tokens that mark thoughts."""
        ends = network.generation_config.eos_token_id
        ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        length = next((place for place, token in enumerate(new) if token in ends), len(new))
        text = tokenizer.decode(new[:length], skip_special_tokens=False).strip()
        if not text:
            return Reply(None, EMPTY)
        if length == self.parameters["max_tokens"]:
            return Reply(None, f"{CUT}: max_tokens {length}")
        return Reply(text)

    def _tokenizer(self) -> Any:
        ensure_models([self.model], beside=TOKENIZERS, otherwise="give a local folder of an instruction model")
        try:
            with offline_if_cached(self.model, beside=TOKENIZERS):
                tokenizer: Any = AutoTokenizer.from_pretrained(self.model, padding_side="left")
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise self._unloadable(error) from error
        if tokenizer.chat_template is None:
            raise UserError(f"model {self.model!r} has no chat template: give an instruction model")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def _network(self) -> Any:
        try:
            with at_work(f"loading {self.model}"), offline_if_cached(self.model, beside=TOKENIZERS):
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    self.model, dtype=self.dtype, use_safetensors=True, output_loading_info=True
                )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise self._unloadable(error) from error
        network, info = loaded
        if info["missing_keys"]:  # transformers would fill them with random numbers
            raise UserError(
                f"model {self.model!r} has no weights for {len(info['missing_keys'])} of its tensors, such as "
                f"{min(info['missing_keys'])!r}: download it again"
            )
        network.to(self.device)
        keep_plain_options(network)
        if self.dtype == "auto":
            widen_on_cpu(network, f"model {self.model!r}")
        return network.eval()

    def _unloadable(self, error: Exception) -> UserError:
        reason = " ".join(str(error).split())[:200]
        return UserError(
            f"model {self.model!r} cannot be loaded ({reason}): give a local folder or a hub id of an instruction model"
        )
