"""What a model costs, from its settings alone: parameters, FLOPs, cache bytes.

FLOPs count matrix products only, a multiply-add as 2. Embedding look-ups, norms, biases and softmax are not counted.
Two conventions stand side by side:

- exact: attention counts the (query, key) pairs that the variant lets see each other;
- dense: the full square, as in PaLM (arXiv 2204.02311, appendix B) and the trainers that follow it.
"""

from dataclasses import dataclass

from vgpt.attention.config import AttentionConfig
from vgpt.attention.options import chosen
from vgpt.model.config import GPT2Config

BACKWARD_TO_FORWARD = 2
"""A matrix product needs two of its size to be differentiated: by its input and by its weight."""


@dataclass(frozen=True)
class ParameterCount:
    """Parameters by place. `head` is 0 where the output layer is the token embedding."""

    token_embedding: int
    position_embedding: int
    attention: int
    mlp: int
    norms: int
    head: int

    @property
    def total(self) -> int:
        """All of them, each once."""
        return self.embedding + self.non_embedding

    @property
    def embedding(self) -> int:
        """Token and position tables."""
        return self.token_embedding + self.position_embedding

    @property
    def non_embedding(self) -> int:
        """All but the token and position tables."""
        return self.attention + self.mlp + self.norms + self.head


def count_parameters(config: GPT2Config) -> ParameterCount:
    """Count the parameters of a model; equals what its modules hold."""
    C, F, L, V = config.n_embd, config.hidden, config.n_layer, config.vocab_size
    norm = C * (1 + config.bias)
    return ParameterCount(
        token_embedding=V * C,
        position_embedding=config.block_size * C * sum(option.input_rows for option, _ in chosen(config)),
        attention=sum(attn.params(config.shape) for attn in _layers(config)),
        mlp=L * (2 * C * F + config.bias * (F + C)),
        norms=(2 * L + 1) * norm,
        head=0 if config.tie_weights else V * C,
    )


def forward_flops(config: GPT2Config, tokens: int, *, dense: bool = False) -> int:
    """FLOPs of one forward pass over one sequence of `tokens`, with logits for each."""
    return _blocks(config, tokens, dense) + tokens * _head(config)


def train_flops(config: GPT2Config, tokens: int, *, dense: bool = False) -> int:
    """FLOPs of one forward and backward pass over one sequence of `tokens`."""
    return (1 + BACKWARD_TO_FORWARD) * forward_flops(config, tokens, dense=dense)


def train_flops_per_token(config: GPT2Config, tokens: int | None = None) -> float:
    """Exact training FLOPs per token of sequences of `tokens` (`block_size` by default)."""
    tokens = tokens or config.block_size
    return train_flops(config, tokens) / tokens


def palm_flops_per_token(config: GPT2Config, tokens: int | None = None) -> float:
    """Training FLOPs per token as most papers and trainers state them: 6 N + 3 dense attention.

    N is all parameters but position tables and, where it does not serve as output layer, the token table.
    """
    tokens = tokens or config.block_size
    count = count_parameters(config)
    n = count.total - count.position_embedding - (0 if config.tie_weights else count.token_embedding)
    attention = sum(attn.dense_flops(config.shape, tokens).attention for attn in _layers(config))
    return 6 * n + (1 + BACKWARD_TO_FORWARD) * attention / tokens


def prefill_flops(config: GPT2Config, tokens: int) -> int:
    """FLOPs of reading a prompt of `tokens`: all blocks, and logits for its last token only."""
    return _blocks(config, tokens, dense=False) + _head(config)


def decode_flops(config: GPT2Config, tokens: int) -> int:
    """FLOPs of one more token through the cache when the context, itself included, is `tokens` long."""
    attention = sum(attn.decode_flops(config.shape, tokens).total for attn in _layers(config))
    return attention + config.n_layer * _mlp(config) + _head(config)


def cache_bytes(config: GPT2Config, tokens: int, element_bytes: int = 2) -> int:
    """Bytes that one sequence of `tokens` keeps in the caches of all layers."""
    return sum(attn.cache_cost(config.shape).nbytes(tokens, element_bytes) for attn in _layers(config))


def cache_read_bytes(config: GPT2Config, tokens: int, element_bytes: int = 2) -> int:
    """Bytes of the caches that one decoding step reads when they hold `tokens`."""
    return sum(attn.cache_cost(config.shape).read_nbytes(tokens, element_bytes) for attn in _layers(config))


def _layers(config: GPT2Config) -> list[AttentionConfig]:
    return [config.attn.at(layer) for layer in range(config.n_layer)]


def _blocks(config: GPT2Config, tokens: int, dense: bool) -> int:
    shape = config.shape
    attention = sum(
        (attn.dense_flops(shape, tokens) if dense else attn.flops(shape, tokens)).total for attn in _layers(config)
    )
    return attention + config.n_layer * tokens * _mlp(config)


def _mlp(config: GPT2Config) -> int:
    return 4 * config.n_embd * config.hidden


def _head(config: GPT2Config) -> int:
    return 2 * config.n_embd * config.vocab_size
