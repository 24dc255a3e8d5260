"""Find the layers of a model that can be captured or changed, and what runs them."""

from collections.abc import Collection
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ard.audiollm.encoders import encoder_layers
from ard.audiollm.prompter import AudioPrompter
from ard.types import UserError


def find_layers(
    model: Any, prompter: AudioPrompter, name: str, layers_path: str | None
) -> tuple[nn.ModuleList, PreTrainedModel]:
    """Return the layers at a path, with or without the model's own prefix, and the stack that runs them.

    Raises:
        UserError: if there are none, or their positions cannot be identified.
    """
    modules = dict(model.named_modules())
    of_encoder = {} if prompter.encoder is None else encoder_layers(model)
    if layers_path is None:
        layers = _longest(of_encoder.values()) if of_encoder else getattr(decoder_of(model, prompter), "layers", None)
    else:
        prefix = f"{model.base_model_prefix}."
        paths = (layers_path, prefix + layers_path, layers_path.removeprefix(prefix))
        layers = next((modules[path] for path in paths if path in modules), None)
    lists = [path for path, module in modules.items() if isinstance(module, nn.ModuleList)]
    shallow = [path for path in lists if not any(part.isdigit() for part in path.split("."))]
    choices = ", ".join(of_encoder or shallow)
    who = f"{name!r} ({prompter.model_type})"
    if not isinstance(layers, nn.ModuleList):
        where = "in a decoder with audio tokens" if layers_path is None else f"at {layers_path!r}"
        raise UserError(f"model {who} has no layers {where}: give layers_path, one of {choices}")
    stacks = [m for m in modules.values() if isinstance(m, PreTrainedModel) and layers in m.modules()]
    stack = stacks[-1]  # the innermost: a module comes after those that contain it
    encodes = stack.main_input_name == "input_features" and hasattr(stack.config, "max_source_positions")  # as Whisper
    if of_encoder and not any(layers is one for one in of_encoder.values()):
        raise UserError(f"the layers of {who} at {layers_path!r} are not its encoder's: give {choices}")
    if not of_encoder and stack is not decoder_of(model, prompter) and not encodes:
        raise UserError(
            f"the layers of {who} at {layers_path!r} belong neither to a decoder with audio tokens nor to an encoder "
            f"like Whisper's, so their positions cannot be identified: give another layers_path, one of {choices}"
        )
    return layers, stack


def _longest(lists: Collection[nn.ModuleList]) -> nn.ModuleList:
    """Return the longest list, the last of equally long ones."""
    return max(reversed([*lists]), key=len)


def decoder_of(model: Any, prompter: AudioPrompter) -> Any:
    """Return the part that reads text and audio tokens; None if the model has no audio tokens."""
    return None if prompter.audio_token_id is None else model.get_decoder()
