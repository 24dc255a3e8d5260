"""The options for generation that a checkpoint brings along, and a look at answers while they are made."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria

KEPT = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id"),
    *("repetition_penalty", "no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens"),
    *("top_k", "top_p", "min_p", "typical_p"),  # for draws
)
"""Options that change which token is likely. All others change the search, or what is returned."""


def keep_plain_options(network: Any) -> None:
    """Drop the options of a model's ``generation_config`` that would change how ``generate`` searches or answers.

    The call to ``generate`` decides how to search.
    """
    config = getattr(network, "generation_config", None)
    if config is not None:
        network.generation_config = GenerationConfig(**{name: getattr(config, name, None) for name in KEPT})


class Watched(StoppingCriteria):
    """Shows the tokens of the answers so far to a function after every token; it ends nothing by itself.

    Args:
        watch: is called with the tokens.
        start: where the answers begin: behind the prompts.
    """

    def __init__(self, watch: Callable[[Int[Tensor, "rows tokens"]], None], start: int) -> None:
        self.watch, self.start = watch, start

    def __call__(self, input_ids: Int[Tensor, "rows positions"], scores: Any, **_: Any) -> Bool[Tensor, " rows"]:
        """Show the tokens, and say of no row that it is finished."""
        self.watch(input_ids[:, self.start :])
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
