"""Layers go through torch.compile in one piece, and come out as they were."""

import pytest
import torch


@pytest.mark.slow
@pytest.mark.parametrize(
    "attn", ["mha", "gqa:n_kv_head=2", "local:window_size=9", "sparse:sparse_block_size=4", "linear", "mla"]
)
@pytest.mark.parametrize("pos", ["learned", "rope", "alibi"])
def test_every_variant_compiles_without_a_graph_break(layer, noise, attn, pos):
    module = layer(attn, pos=pos)
    compiled = torch.compile(module, fullgraph=True)
    x = noise(2, 60, 32)
    y, want = compiled(x), module(x)
    torch.testing.assert_close(y, want, rtol=0, atol=1e-4)
    y.sum().backward()
    torch.compiler.reset()
