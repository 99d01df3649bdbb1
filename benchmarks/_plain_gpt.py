"""The GPT-2 that most people write in plain PyTorch: what a speed has to be compared with."""

from torch import Tensor, nn
from torch.nn import functional as F


class PlainBlock(nn.Module):
    """Norm, attention by torch's fused kernel, residual; norm, MLP, residual."""

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
        self.c_attn, self.attn_proj = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)
        self.c_fc, self.mlp_proj = nn.Linear(n_embd, 4 * n_embd), nn.Linear(4 * n_embd, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_head, -1).transpose(1, 2) for part in self.c_attn(self.ln_1(x)).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class PlainGPT(nn.Module):
    """GPT-2 with its loss: all logits at once, in float32.

    Args:
        vocab: classes.
        rows: rows of the tied embedding; more than `vocab` where it is padded for a GPU.
        n_layer: blocks.
        n_head: heads.
        n_embd: width.
        block_size: positions.
    """

    def __init__(self, vocab: int, n_layer: int, n_head: int, n_embd: int, block_size: int, *, rows: int = 0) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(rows or vocab, n_embd), nn.Embedding(block_size, n_embd)
        self.h = nn.ModuleList(PlainBlock(n_embd, n_head) for _ in range(n_layer))
        self.ln_f = nn.LayerNorm(n_embd)
        self.block_size = block_size
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        for block in self.h:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def copy_weights(plain: PlainGPT, ours: nn.Module) -> None:
    """Give a plain GPT the weights of vgpt's GPT-2 with multi-head attention and learned positions."""
    state = {}
    for name, value in ours.state_dict().items():
        name = name.replace("attn.c_attn", "c_attn").replace("attn.c_proj", "attn_proj")
        name = name.replace("mlp.c_fc", "c_fc").replace("mlp.c_proj", "mlp_proj")
        state[name] = value
    rows = plain.wte.weight.shape[0]
    state["wte.weight"] = F.pad(state["wte.weight"], (0, 0, 0, rows - state["wte.weight"].shape[0]))
    plain.load_state_dict(state)
