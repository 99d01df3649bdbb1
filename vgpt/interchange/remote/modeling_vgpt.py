"""A vgpt model for transformers: its forward pass, its loss, and generation through its attention's own caches."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any  # noqa: F401 - the first is for what is added to this file

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedModel  # pyright: ignore[reportMissingImports]
from transformers.utils.generic import ModelOutput  # pyright: ignore[reportMissingImports]

from vgpt.attention.cache import Cache
from vgpt.interchange.remote.configuration_vgpt import VgptConfig
from vgpt.model.config import GPT2Config
from vgpt.model.gpt2 import GPT2Model


class VgptCache:
    """What all layers remember of a batch of sequences.

    Args:
        model: whose layers they are.
        ids: the first token ids (B, T); more rows than these never come.
    """

    def __init__(self, model: GPT2Model, ids: Tensor) -> None:
        self._model, self._room = model, max(model.config.block_size, ids.shape[1])
        self._layers: list[Cache] = []
        self.ids = ids[:, :0]

    def append(self, ids: Tensor) -> Tensor:
        """Take the next token ids (B, T) and return the residual stream (B, T, C) after the last norm."""
        self.ids = torch.cat([self.ids, ids], 1)
        length, fresh = self.ids.shape[1], ids.shape[1]
        if length > self._room or not self._layers:
            # Where there is no end to positions, memory is made anew, twice as long, and filled again.
            self._room = self._room if length <= self._room else 2 * length
            self._layers = self._model.make_caches(len(ids), self._room, dtype=self._model.wte.weight.dtype)
            ids = self.ids
        return self._model.hidden(ids, self._layers)[:, -fresh:]

    def begins(self, ids: Tensor) -> bool:
        """Return whether token ids (B, T) go on from what is remembered, with at least one more token."""
        length = self.ids.shape[1]
        return ids.shape[0] == len(self.ids) and ids.shape[1] > length and torch.equal(ids[:, :length], self.ids)


@dataclass
class VgptOutput(ModelOutput):
    """Logits (B, T, V), the loss where labels were given, and the cache where one was asked for."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    vgpt_cache: VgptCache | None = None


class VgptForCausalLM(PreTrainedModel, GenerationMixin):
    """The language model.

    Padding is allowed on either side, where `attention_mask` (B, T) is 0: rows are moved so that each begins at its
    first token, and causal attention does not see what comes behind. With padding on the left no cache is used.
    """

    config_class = VgptConfig
    base_model_prefix = "transformer"
    _no_split_modules = ["GPT2Block"]  # noqa: RUF012 - as transformers has it

    def __init__(self, config: VgptConfig) -> None:
        super().__init__(config)
        # Tied weights are one parameter here, so that there is nothing to tie.
        self.transformer = GPT2Model(GPT2Config.model_validate(config.model))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave weights to the file that they come from."""

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Return that transformers is to make no cache: each kind of attention has its own."""
        return False

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return self.transformer.wte

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the output layer; None where it is the token embedding."""
        return self.transformer.lm_head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        vgpt_cache: VgptCache | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> VgptOutput | tuple[Any, ...]:
        """Return logits (B, T, V) for token ids (B, T), of the last `logits_to_keep` where that is not 0.

        With `vgpt_cache` the ids go on from what it holds. `labels` (B, T) are the ids themselves, -100 where there is
        none to predict; the loss is the mean in nats per token.
        """
        if kwargs.get("inputs_embeds") is not None:
            raise ValueError("this model takes token ids, not embeddings")
        shift = None if attention_mask is None else _left_padding(attention_mask[:, -input_ids.shape[1] :])
        if shift is not None:
            hidden = _rolled(self.transformer.hidden(_rolled(input_ids, -shift)), shift)
            vgpt_cache = None
        elif use_cache or vgpt_cache is not None:
            vgpt_cache = vgpt_cache or VgptCache(self.transformer, input_ids)
            hidden = vgpt_cache.append(input_ids)
        else:
            hidden = self.transformer.hidden(input_ids)
        logits = self.transformer.logits(hidden[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            targets = F.pad(labels, (0, 1), value=-100)[:, 1:][:, -logits_to_keep:]
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten().to(logits.device))
        found = VgptOutput(loss=loss, logits=logits, vgpt_cache=vgpt_cache)
        return found.to_tuple() if return_dict is False else found

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        vgpt_cache: VgptCache | None = None,
        use_cache: bool | None = True,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return what `forward` takes of texts so far: of those that are remembered, the new tokens alone.

        Texts that were reordered (beams) or cut are read anew.
        """
        if vgpt_cache is not None and vgpt_cache.begins(input_ids):
            return {"input_ids": input_ids[:, vgpt_cache.ids.shape[1] :], "vgpt_cache": vgpt_cache}
        return {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": use_cache}

    def _update_model_kwargs_for_generation(self, outputs: Any, model_kwargs: Any, *args: Any, **kwargs: Any) -> Any:
        found = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)
        return {**found, "vgpt_cache": outputs.get("vgpt_cache")}


def _left_padding(mask: Tensor) -> Tensor | None:
    """Return how many places each row is padded with on the left, (B,); None where no row is.

    Raises:
        ValueError: there is padding between tokens.
    """
    real = mask.bool()
    first = real.int().argmax(1)
    places = torch.arange(mask.shape[1], device=mask.device)
    if not torch.equal(real, (places >= first[:, None]) & (places < (first + real.sum(1))[:, None])):
        raise ValueError("attention_mask hides tokens between others; this model takes padding at the ends alone")
    return first if bool(first.any()) else None


def _rolled(rows: Tensor, shift: Tensor) -> Tensor:
    """Return rows (B, T, ...) moved right by `shift` (B,) places, around the end."""
    places = (torch.arange(rows.shape[1], device=rows.device) - shift[:, None]) % rows.shape[1]
    return rows.gather(1, places.view(*places.shape, *[1] * (rows.ndim - 2)).expand(-1, -1, *rows.shape[2:]))
