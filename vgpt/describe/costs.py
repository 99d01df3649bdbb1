"""What the attention of a model costs: of one layer, and of all."""

from collections.abc import Sequence
from dataclasses import dataclass

from vgpt.attention.config import AttentionConfig, CacheCost, Shape
from vgpt.errors import VgptError
from vgpt.model.costs import BACKWARD_TO_FORWARD
from vgpt.settings.model import ModelSettings


@dataclass(frozen=True)
class AttentionCosts:
    """Parameters, and FLOPs per token on sequences of `block_size`; a multiply-add counts 2.

    Attributes:
        params: all parameters.
        matmul_params: those in products with the input.
        forward: FLOPs of the forward pass, over visible pairs only.
        attention: those of scores and weighted values.
        forward_dense: FLOPs by the convention that ignores causality.
        decode: FLOPs of one more token at this context.
        pairs: (query, key) pairs that see each other in one head, per query.
    """

    params: int
    matmul_params: int
    forward: float
    attention: float
    forward_dense: float
    decode: int
    pairs: float

    @property
    def train(self) -> float:
        """FLOPs of forward and backward pass."""
        return self.forward * (1 + BACKWARD_TO_FORWARD)


@dataclass(frozen=True)
class LayerGroup:
    """Layers of a model with the same settings."""

    config: AttentionConfig
    layers: tuple[int, ...]


def groups(model: ModelSettings) -> list[LayerGroup]:
    """Return the layers by their settings, in the order of their first layer."""
    found: list[LayerGroup] = []
    for layer in range(model.n_layer):
        config = model.attn.at(layer)
        same = next((i for i, group in enumerate(found) if group.config == config), None)
        if same is None:
            found.append(LayerGroup(config, (layer,)))
        else:
            found[same] = LayerGroup(config, (*found[same].layers, layer))
    return found


def costs(config: AttentionConfig, shape: Shape, tokens: int) -> AttentionCosts:
    """Return the costs of one layer on sequences of `tokens`.

    Raises:
        VgptError: the variant does not state them.
    """
    try:
        exact, dense = config.flops(shape, tokens), config.dense_flops(shape, tokens)
        return AttentionCosts(
            params=config.params(shape),
            matmul_params=config.matmul_params(shape),
            forward=exact.total / tokens,
            attention=exact.attention / tokens,
            forward_dense=dense.total / tokens,
            decode=config.decode_flops(shape, tokens).total,
            pairs=config.pairs(tokens) / tokens,
        )
    except NotImplementedError as error:
        raise VgptError(*_unstated(config)) from error


def model_costs(model: ModelSettings) -> AttentionCosts:
    """Return the costs of the attention in all layers; `pairs` is the mean of the layers."""
    parts = [part for g in groups(model) for part in [costs(g.config, model.shape, model.block_size)] * len(g.layers)]
    return AttentionCosts(
        params=sum(part.params for part in parts),
        matmul_params=sum(part.matmul_params for part in parts),
        forward=sum(part.forward for part in parts),
        attention=sum(part.attention for part in parts),
        forward_dense=sum(part.forward_dense for part in parts),
        decode=sum(part.decode for part in parts),
        pairs=sum(part.pairs for part in parts) / len(parts),
    )


@dataclass(frozen=True)
class CacheSizes:
    """The caches of all layers for one sequence.

    Args:
        costs: cost and number of layers that share it.
        element_bytes: bytes of one cached number.
    """

    costs: Sequence[tuple[CacheCost, int]]
    element_bytes: int

    def at(self, tokens: int) -> int:
        """Bytes kept after `tokens`."""
        return sum(cost.nbytes(tokens, self.element_bytes) * count for cost, count in self.costs)

    def read(self, tokens: int) -> int:
        """Bytes that one decoding step reads after `tokens`."""
        return sum(cost.read_nbytes(tokens, self.element_bytes) * count for cost, count in self.costs)

    def growth(self, tokens: int) -> int:
        """Bytes that the next token after `tokens` adds."""
        return self.at(tokens + 1) - self.at(tokens)


def cache_sizes(model: ModelSettings, element_bytes: int) -> CacheSizes:
    """Return the sizes of a model's caches.

    Raises:
        VgptError: the variant does not state them.
    """
    found: list[tuple[CacheCost, int]] = []
    for group in groups(model):
        try:
            found.append((group.config.cache_cost(model.shape), len(group.layers)))
        except NotImplementedError as error:
            raise VgptError(*_unstated(group.config)) from error
    return CacheSizes(found, element_bytes)


def decode_flops(model: ModelSettings, tokens: int) -> int:
    """FLOPs that the attention of all layers needs for one more token, which makes the context `tokens` long."""
    return sum(g.config.decode_flops(model.shape, tokens).total * len(g.layers) for g in groups(model))


def flops_json(costs: AttentionCosts) -> dict[str, float]:
    """Return the FLOPs as plain data, per token of a sequence of `block_size`."""
    return {
        "forward_flops_per_token": costs.forward,
        "attention_flops_per_token": costs.attention,
        "forward_flops_per_token_dense": costs.forward_dense,
        "train_flops_per_token": costs.train,
        "decode_flops_at_context": costs.decode,
        "visible_keys_per_query": costs.pairs,
    }


def _unstated(config: AttentionConfig) -> tuple[str, str]:
    return (
        f"attention {config.kind!r} does not say what it costs",
        "Its settings class must define params, matmul_params and cache_cost.",
    )
