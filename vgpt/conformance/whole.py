"""The variant, or mix of variants, inside a model."""

import torch

from vgpt.attention.config import ModelAttention, Shape
from vgpt.attention.grouped.config import MHAConfig
from vgpt.attention.options import choices
from vgpt.conformance.measure import Measurement, WorstCase, relative_error
from vgpt.model.config import GPT2Config
from vgpt.model.costs import cache_bytes, count_parameters
from vgpt.model.decoding import Decoder
from vgpt.model.gpt2 import GPT2Model
from vgpt.model.init import initialize

_VOCABULARY = 61
_TOKENS = 70


def same_trunk(config: ModelAttention, shape: Shape, n_layer: int, seed: int, device: str = "cpu") -> Measurement:
    """Every tensor outside the attention layers starts bit-equal to that of a multi-head model of the same seed."""
    worst = WorstCase("all tensors but those of the attention start bit-equal to mha's (tensors that differ)")
    tensors: list[dict[str, torch.Tensor]] = []
    for attn in (config, MHAConfig()):
        model = GPT2Model(_model(attn, shape, n_layer))
        initialize(model, seed)
        worst.add(
            sum(int(not torch.isfinite(p).all()) for p in model.parameters()), 0, "parameters that are left unfilled"
        )
        tensors.append({name: value for name, value in model.state_dict().items() if ".attn." not in name})
    one, other = tensors
    worst.add(len(one.keys() ^ other.keys()), 0, f"names differ: {', '.join(sorted(one.keys() ^ other.keys()))}")
    differ = [name for name in one if name in other and not torch.equal(one[name], other[name])]
    worst.add(len(differ), 0, f"{', '.join(differ)} start with other numbers than beside mha")
    return worst.measurement()


def in_a_model(config: ModelAttention, shape: Shape, n_layer: int, seed: int, device: str = "cpu") -> Measurement:
    """A model generates through its caches what it predicts at once; parameters and cache bytes are as stated."""
    worst = WorstCase("a model decodes what it predicts at once, and costs what is stated (largest difference)")
    settings = _model(config, shape, n_layer)
    model = GPT2Model(settings)
    initialize(model, seed)
    model.to(device)
    worst.equal(sum(p.numel() for p in model.parameters()), count_parameters(settings).total, "parameters of the model")
    stream = torch.Generator().manual_seed(seed)
    ids = torch.randint(_VOCABULARY, (2, _TOKENS), generator=stream).to(device)
    with torch.no_grad():
        full = model(ids)
    for dtype, limit in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        decoder = Decoder(model, dtype)
        caches = decoder.make_caches(2, _TOKENS)
        end = 0
        for chunk in ids.split([_TOKENS - 9, 1, 1, 5, 1, 1], 1):
            end += chunk.shape[1]
            logits = decoder.next_logits(chunk, caches)
            worst.add(
                relative_error(logits, full[:, end - 1], floor=1e-30), limit, f"{dtype}: logits after {end} tokens"
            )
        stated = 2 * cache_bytes(settings, _TOKENS, dtype.itemsize)
        worst.equal(sum(cache.nbytes for cache in caches), stated, f"{dtype}: bytes of all caches")
    return worst.measurement()


def _model(config: ModelAttention, shape: Shape, n_layer: int) -> GPT2Config:
    return GPT2Config(
        attn=config,
        vocab_size=_VOCABULARY,
        n_layer=n_layer,
        n_head=shape.n_head,
        n_embd=shape.n_embd,
        block_size=max(_TOKENS, shape.block_size),
        bias=shape.bias,
        **choices(shape),
    )
