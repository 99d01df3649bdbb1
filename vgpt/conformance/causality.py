"""Who sees whom: nothing from the future, nothing that the settings hide, and everything that they show."""

import torch
from torch import Tensor

from vgpt.attention.base import CausalSelfAttention
from vgpt.conformance.case import FARTHEST, LONGEST, Case, causal_pairs
from vgpt.conformance.measure import Measurement, WorstCase, relative_error
from vgpt.conformance.modes import MODES, TRAINING, ULP, Mode

_SHORT = 40


def causality_by_gradient(case: Case) -> Measurement:
    """No output has a gradient to a later input: exactly zero, in every precision and on both paths."""
    worst = WorstCase("no output has a gradient to a later input (largest one found)")
    for flags, backbone in case.backbones():
        _later(worst, backbone, _SHORT, torch.float64, flags)
    _later(worst, case, case.tokens, torch.float64, "float64")
    _later(worst, case.on(flash=False), _SHORT, torch.float64, "--no-flash")
    _later(worst, case, 200, torch.float32, "float32")
    for mode in MODES[1:]:
        _later(worst, case, _SHORT, torch.float32, mode.name, mode)
    return worst.measurement()


def causality_by_perturbation(case: Case) -> Measurement:
    """Outputs before a position stay as they are when the inputs from it on change, in every mode.

    They change a little, to others of their size, and to much larger ones: what depends on later inputs may go unseen
    where it is small, and where it saturates. Unlike a gradient this also sees a maximum, and what is detached.
    """
    worst = WorstCase("outputs stay as they are when later inputs change, in every mode (largest change)")
    for flags, backbone in [*case.backbones(), ("--no-flash", case.on(flash=False))]:
        plain = backbone == case
        tokens = case.tokens if plain else min(_SHORT, case.tokens)
        cuts = case.rows(tokens, case.copies(tokens, 8 if plain else 4))
        for mode in MODES:
            _perturb(worst, backbone, tokens, cuts, mode, flags)
    if (far := min(FARTHEST, case.shape.block_size)) > case.tokens:
        for mode in (MODES[1], MODES[2]):
            _perturb_far(worst, case, far, mode)
    return worst.measurement()


def visibility(case: Case) -> Measurement:
    """Gradients are zero where `visible` hides, and not zero where it shows, in two layers and all heads together.

    Where masks differ between heads, the features that `c_proj` reads are told apart too: each must follow one head's
    mask, and as many follow each mask as have it.
    """
    claim = "gradients reach hidden inputs never" + (" and visible ones always" if case.softmax else "")
    whole = case.shape.block_size
    if case.tokens < (case.reach or 0) or (case.reach is None and case.config.pairs(whole) < causal_pairs(whole)):
        claim += f", up to {case.tokens:,} tokens, within which nothing is hidden yet"
    worst = WorstCase(f"{claim} (wrong pairs)")
    for flags, backbone in case.backbones():
        if backbone != case:
            _compare(worst, backbone, case.layer, min(_SHORT, case.tokens), 12, flags)
    for layer in (case.layer, case.layer + 1):
        _compare(worst, case, layer, case.tokens, 24, f"layer {layer}")
        _compare(worst, case.on(flash=False), layer, case.tokens, 12, f"layer {layer} with --no-flash")
    _compare_heads(worst, case)
    return worst.measurement()


def _perturb(worst: WorstCase, case: Case, tokens: int, cuts: list[int], mode: Mode, flags: str) -> None:
    module = case.module()
    x = case.inputs(1, tokens).expand(len(cuts), -1, -1)
    noise = case.inputs(len(cuts), tokens, salt="noise")
    later = (torch.arange(tokens, device=x.device) >= torch.tensor(cuts, device=x.device)[:, None])[..., None]
    before = mode.run(module, x)
    for size, changed in (("slightly other", x + 0.1 * noise), ("others", noise), ("30 times larger", 30 * noise)):
        after = mode.run(module, torch.where(later, changed, x))
        for i, cut in enumerate(cuts):
            where = f"{flags}, {mode.name}, T={tokens}: outputs before {cut} move with inputs from it on ({size})"
            worst.add(relative_error(after[i, :cut], before[i, :cut]), ULP if mode.autocast else 1e-6, where)


def _perturb_far(worst: WorstCase, case: Case, tokens: int, mode: Mode) -> None:
    """Change the later part of one long sequence, token by token a little, much and very much."""
    x, noise = case.inputs(1, tokens), case.inputs(1, tokens, salt="noise")
    sizes = torch.tensor([0.1, 1.0, 30.0], device=x.device).repeat(tokens // 3 + 1)[:tokens]
    cut = tokens - tokens // 4
    changed = torch.cat((x[:, :cut], (x + sizes[:, None] * noise)[:, cut:]), 1)
    before, after = mode.run(case.module(), torch.cat((x, changed)))
    where = f"{mode.name}, T={tokens}: outputs before {cut} move with inputs from it on"
    worst.add(relative_error(after[:cut], before[:cut]), ULP if mode.autocast else 1e-6, where)


def _later(worst: WorstCase, case: Case, tokens: int, dtype: torch.dtype, where: str, mode: Mode = TRAINING) -> None:
    tokens = min(tokens, case.longest)
    rows = case.rows(tokens, 12)
    gradients = _reach_of(case, case.module(dtype), case.inputs(1, tokens, dtype), rows, mode)
    future = torch.arange(tokens) > torch.tensor(rows)[:, None]
    leak = torch.where(future, gradients, 0.0)
    row, key = divmod(int(leak.argmax()), tokens)
    worst.add(float(leak.max()), 0, f"{where}, T={tokens}: output {rows[row]} has a gradient to input {key}")


def _reach_of(case: Case, module: CausalSelfAttention, x: Tensor, rows: list[int], mode: Mode) -> Tensor:
    """Return the size of the gradient of each row's output to every input, (rows, T), on the CPU.

    Each row has a copy of x (1, T, C) in the batch, so that one backward pass serves as many as memory allows.
    """
    at_once = case.copies(x.shape[1], len(rows))
    if at_once < len(rows):
        chunks = [rows[i : i + at_once] for i in range(0, len(rows), at_once)]
        return torch.cat([_reach_of(case, module, x, chunk, mode) for chunk in chunks])
    copies = x.expand(len(rows), -1, -1).clone().requires_grad_()
    with mode.context(case.device):
        y = mode.of(module)(copies)
    # Different weights for the features, so that no gradient cancels by symmetry.
    weights = torch.linspace(0.5, 1.5, y.shape[-1], device=y.device, dtype=y.dtype)
    picked = y[torch.arange(len(rows)), torch.tensor(rows)] @ weights
    (gradient,) = torch.autograd.grad(picked.sum(), copies)
    return gradient.detach().abs().amax(-1).double().cpu()


def _compare(worst: WorstCase, case: Case, layer: int, tokens: int, count: int, where: str) -> None:
    rows = case.rows(tokens, count)
    x = case.inputs(1, tokens, torch.float64)
    reached = _reach_of(case, case.module(torch.float64, layer), x, rows, TRAINING) > 0
    shown = case.visible(torch.tensor(rows), tokens, layer)
    wrong = reached != shown if case.softmax else reached & ~shown
    first = wrong.nonzero()[:1].tolist()
    text = ""
    if first:
        row, key = rows[first[0][0]], first[0][1]
        text = f"takes from {key}, which is hidden" if reached[tuple(first[0])] else f"takes nothing from {key}"
        text = f"{where}: query {row} {text}"
    worst.add(int(wrong.sum()), 0, text)


def _compare_heads(worst: WorstCase, case: Case) -> None:
    rows = case.rows(case.tokens, 6)
    masks = case.visible_by_head(torch.tensor(rows), case.tokens)
    if case.tokens > LONGEST or not case.softmax or (masks == masks[0]).all():
        return
    module = case.module(torch.float64)
    heads_read: list[Tensor] = []
    module.c_proj.register_forward_pre_hook(lambda _, arguments: heads_read.append(arguments[0]))  # type: ignore[union-attr]
    x = case.inputs(1, case.tokens, torch.float64).requires_grad_()
    module(x)
    if len(heads_read) != 1:
        return
    features = heads_read[0][0]  # (T, H * v_dim) in whatever order
    width = features.shape[-1] // len(masks)
    found: dict[bytes, int] = {}
    for feature in range(features.shape[-1]):
        grads = [torch.autograd.grad(features[row, feature], x, retain_graph=True)[0] for row in rows]
        pattern = torch.stack([grad[0].abs().amax(-1) > 0 for grad in grads])
        key = pattern.cpu().numpy().tobytes()
        found[key] = found.get(key, 0) + 1
    for head, mask in enumerate(masks):
        key = mask.numpy().tobytes()
        same = sum(int((other == mask).all()) for other in masks)
        worst.equal(found.get(key, 0), width * same, f"features that follow the mask of head {head}")
