"""Write mixers.safetensors: inputs and outputs of small sliding-window, linear and block-sparse layers of others.

Run again only when a format changes: python tests/golden/make_mixers.py
"""

import importlib.util
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

HEADS, WIDTH, WINDOW, TOKENS = 4, 32, 5, 23
BLOCK, BLOCKS, RANDOM = 4, 16, 2
CHUNKS = 128  # fla's chunked form takes whole chunks of 64
Tensors = dict[str, Tensor]


def normal(*shape: int, seed: int) -> Tensor:
    """Return normal numbers of a fixed seed."""
    return torch.empty(shape).normal_(generator=torch.Generator().manual_seed(seed))


def randomise(module: nn.Module) -> None:
    """Fill all parameters with normal numbers."""
    with torch.no_grad():
        for seed, parameter in enumerate(module.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed) * 0.2)


def mistral() -> Tensors:
    """Return weights, input and output of the attention layer of a MistralModel with a sliding window."""
    from transformers import MistralConfig, MistralModel

    config = MistralConfig(
        vocab_size=31,
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=64,
        sliding_window=WINDOW,
        attn_implementation="eager",
    )
    model = MistralModel(config).eval()
    randomise(model)
    seen: Tensors = {}
    layer = model.layers[0].self_attn
    # The model itself makes the mask of the window; a hook sees what its layer was given and returned.
    layer.register_forward_pre_hook(lambda _, args, kwargs: seen.update(x=kwargs["hidden_states"]), with_kwargs=True)
    layer.register_forward_hook(lambda _, args, output: seen.update(y=output[0]))
    with torch.no_grad():
        model(input_ids=torch.arange(2 * TOKENS).view(2, TOKENS) % 31)
    weights = {name: tensor.detach() for name, tensor in layer.state_dict().items()}
    return {**weights, **seen}


def fla() -> Tensors:
    """Return inputs of linear attention and the outputs of flash-linear-attention's two naive forms."""
    q, k = (torch.nn.functional.elu(normal(1, CHUNKS, 2, 4, seed=seed)) + 1 for seed in (0, 1))
    v = normal(1, CHUNKS, 2, 4, seed=2)
    naive = by_path("linear_attn/naive")
    recurrent, _ = naive.naive_recurrent_linear_attn(q, k, v, normalize=True)
    chunked = naive.naive_chunk_linear_attn(q, k, v, normalize=True)
    chunked = chunked[0] if isinstance(chunked, tuple) else chunked
    return {"q": q, "k": k, "v": v, "recurrent": recurrent, "chunked": chunked}


def by_path(name: str) -> ModuleType:
    """Import a file of fla.ops without importing fla, which asks for a GPU compiler.

    Raises:
        ImportError: flash-linear-attention is not installed.
    """
    found = importlib.util.find_spec("fla")
    if found is None or found.origin is None:
        raise ImportError("flash-linear-attention is not installed")
    spec = importlib.util.spec_from_file_location("naive", Path(found.origin).parent / "ops" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bigbird() -> Tensors:
    """Return queries, keys, values and output of BigBird's block-sparse attention, and who saw whom, (H, T, T).

    In training mode: in evaluation mode it draws no random blocks and counts the first block several times.
    """
    from transformers import BigBirdConfig
    from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention, BigBirdModel

    config = BigBirdConfig(
        vocab_size=31,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        intermediate_size=16,
        max_position_embeddings=BLOCK * BLOCKS,
        attention_type="block_sparse",
        block_size=BLOCK,
        num_random_blocks=RANDOM,
        attention_probs_dropout_prob=0.0,
        hidden_dropout_prob=0.0,
    )
    layer = BigBirdBlockSparseAttention(config, seed=3).train()
    randomise(layer)
    x = normal(2, BLOCK * BLOCKS, WIDTH, seed=9)
    masks = BigBirdModel.create_masks_for_block_sparse_attn(torch.ones(2, BLOCK * BLOCKS), BLOCK)
    blocked, band, start, end = masks
    with torch.no_grad():
        y, weights = layer(x, band, start, end, blocked, blocked, output_attentions=True)
        heads = (WIDTH // HEADS, HEADS)
        q, k, v = (
            projection(x).view(2, -1, heads[1], heads[0]).transpose(1, 2)
            for projection in (layer.query, layer.key, layer.value)
        )
    return {"q": q, "k": k, "v": v, "y": y, "seen": (weights[0] > 0)}


def main() -> None:
    """Run all of them and store what went in and came out."""
    parts = {"mistral": mistral(), "fla": fla(), "bigbird": bigbird()}
    stored = {f"{part}.{name}": t.contiguous() for part, tensors in parts.items() for name, t in tensors.items()}
    save_file(stored, Path(__file__).with_name("mixers.safetensors"))


if __name__ == "__main__":
    main()
