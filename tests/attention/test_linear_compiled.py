"""What linear attention runs on which tensors, and what torch.compile makes of it."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from vgpt.attention.kernels.scores import alibi_slopes
from vgpt.attention.linear import fused
from vgpt.attention.linear.chunked import batched, chunked_linear_attention
from vgpt.attention.linear.features import FEATURE_MAPS, Elu1


def taylor2(q, k, v):
    return chunked_linear_attention(q, k, v, feature_map=FEATURE_MAPS["taylor2"], chunk_size=16)[0]


def kept_bytes(run, inputs) -> int:
    """Bytes that autograd keeps for the backward pass."""
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run(*inputs)
    return sum(kept.values())


@pytest.fixture(autouse=True)
def a_fresh_compiler():
    yield
    torch.compiler.reset()


def test_a_wide_feature_map_keeps_no_features_under_a_compiler(noise):
    inputs = [noise(1, 2, 256, 16, seed=i).requires_grad_() for i in range(3)]
    compiled = torch.compile(taylor2, backend="aot_eager", fullgraph=True)
    # Queries, keys, values, outputs and the denominators; the features alone are nine times as wide as the keys.
    assert kept_bytes(compiled, inputs) <= 4.1 * inputs[0].nbytes
    assert kept_bytes(taylor2, inputs) <= 4.1 * inputs[0].nbytes


@pytest.mark.parametrize("normalize", [True, False], ids=["denom", "none"])
def test_a_wide_feature_map_computes_the_same_under_a_compiler(noise, normalize):
    def run(q, k, v, state):
        settings = {"feature_map": FEATURE_MAPS["taylor2"], "slopes": alibi_slopes(3), "normalize": normalize}
        y, last = chunked_linear_attention(q, k, v, state=state, chunk_size=8, keep_state=True, **settings)
        return y, last

    inputs = [noise(2, 3, 20, 4, seed=i).requires_grad_() for i in range(3)]
    inputs.append(noise(2, 3, 15, 4 + normalize, seed=3).abs().requires_grad_())
    found = []
    for function in (torch.compile(run, backend="aot_eager", fullgraph=True), run):
        results = function(*inputs)
        found.append((*results, *torch.autograd.grad([x.sin().sum() for x in results], inputs)))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float32])
def test_torch_finds_no_fault_in_the_sweep_as_an_operation(noise, half):
    inputs = [noise(1, 2, 9, d, seed=i).to(half).requires_grad_() for i, d in enumerate((2, 2, 3))]
    state = noise(1, 2, 6, 4, seed=3).abs().requires_grad_()
    for arguments in ((state, alibi_slopes(2), "taylor2", 4, True, True), (None, None, "taylor2", 4, False, False)):
        found = torch.library.opcheck(torch.ops.vgpt.sweep, (*inputs, *arguments))
        assert set(found.values()) == {"SUCCESS"}


class Other(Elu1):
    """Another feature map."""


HALF, WHOLE = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("taken", "D", "DV", "dtypes", "feature_map", "device"),
    [
        (True, 64, 64, (HALF, HALF, HALF), FEATURE_MAPS["elu1"], "cuda"),
        (True, 128, 1, (torch.float16,) * 3, FEATURE_MAPS["relu"], "cuda"),
        (True, 1, 128, (HALF, HALF, HALF), FEATURE_MAPS["identity"], "cuda"),
        (False, 64, 64, (HALF, HALF, HALF), FEATURE_MAPS["taylor2"], "cuda"),
        (False, 64, 64, (HALF, HALF, HALF), Other(), "cuda"),
        (False, 64, 64, (WHOLE, WHOLE, WHOLE), FEATURE_MAPS["elu1"], "cuda"),
        (False, 64, 64, (HALF, HALF, WHOLE), FEATURE_MAPS["elu1"], "cuda"),
        (False, 64, 64, (WHOLE, HALF, HALF), FEATURE_MAPS["elu1"], "cuda"),
        (False, 129, 64, (HALF, HALF, HALF), FEATURE_MAPS["elu1"], "cuda"),
        (False, 64, 130, (HALF, HALF, HALF), FEATURE_MAPS["elu1"], "cuda"),
        (False, 64, 64, (HALF, HALF, HALF), FEATURE_MAPS["elu1"], "cpu"),
    ],
)
def test_kernels_take_half_precision_on_a_gpu_and_only_maps_and_widths_that_they_know(
    monkeypatch, taken, D, DV, dtypes, feature_map, device
):
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(fused, "_multiplies_tf32", lambda index: True)
    with FakeTensorMode():  # a GPU's tensors where there is no GPU
        q, k, v = (
            torch.empty(2, 40, 3, width, dtype=dtype, device=device).transpose(1, 2)
            for width, dtype in zip((D, D, DV), dtypes, strict=True)
        )
        assert fused.fits(q, k, v, feature_map) is taken
        shared = torch.empty(2, 1, 40, D, dtype=k.dtype, device=device)
        assert not fused.fits(q, shared, v, feature_map)  # products would broadcast it
        if taken:
            y, state = chunked_linear_attention(q, k, v, feature_map=feature_map)
            assert (y.dtype, y.shape, state) == (v.dtype, v.shape, None)
            assert y.transpose(1, 2).is_contiguous()


def test_segments_keep_every_processor_busy_and_cover_the_sequence():
    for heads, T in [(1, 1), (1, 65), (64, 16_384), (256, 4096), (1024, 1024), (12, 1_000_000), (100_000, 64)]:
        found = fused.plan(heads, T, 64, False, 9, 132)
        chunks = -(-T // found.chunk)
        segments = -(-chunks // found.chunks)
        assert (segments - 1) * found.chunks < chunks <= segments * found.chunks
        # Half of what it aims for, because segments are rounded; all chunks, where there are fewer.
        assert heads * segments >= min(heads * chunks, 8 * 132)


def kernels_in(run, *inputs, results=None) -> list[str]:
    """The operations of vgpt that a compiler finds in a function, in one graph; run it, or give results."""
    found = []

    def backend(graph, _):
        found.extend(str(node.target) for node in graph.graph.nodes if str(node.target).startswith("vgpt."))
        return graph if results is None else lambda *_: results

    torch.compile(run, backend=backend, fullgraph=True)(*inputs)
    return found


def test_a_compiler_on_a_cpu_still_sees_through_narrow_feature_maps(noise):
    inputs = [noise(1, 2, 20, 4, seed=i) for i in range(3)]
    assert kernels_in(lambda *x: chunked_linear_attention(*x)[0], *inputs) == []
    assert kernels_in(taylor2, *inputs) == ["vgpt.sweep.default"]


@pytest.mark.parametrize("name", ["elu1", "relu", "identity"])
def test_the_choice_of_the_kernels_breaks_no_graph(monkeypatch, noise, name):
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(fused, "_DEVICE", "cpu")  # a compiler follows the choice without running the kernels
    q, k, v = (noise(1, 2, 20, 4, seed=i).bfloat16().requires_grad_() for i in range(3))

    def run(q, k, v):
        return chunked_linear_attention(q, k, v, feature_map=FEATURE_MAPS[name], normalize=name != "identity")[0]

    assert kernels_in(run, q, k, v, results=(v,)) == ["vgpt.linear_attention.default"]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_compiler_on_a_gpu_takes_the_kernels_in_one_graph(layer, noise, dtype):
    module = layer("linear", n_embd=64).cuda()
    x = noise(2, 50, 64).cuda().requires_grad_()

    def run(x):
        with torch.autocast("cuda", dtype):
            return module(x)

    assert kernels_in(run, x) == ["vgpt.linear_attention.default"]
    compiled = torch.compile(run, fullgraph=True)
    for y in (compiled(x), compiled(x[:, :33])):  # the second length may be compiled as a variable one
        want = run(x[:, : y.shape[1]])
        torch.testing.assert_close(y, want, rtol=2e-2, atol=2e-2)
        got, other = (torch.autograd.grad(z.float().square().sum(), x)[0] for z in (y, want))
        assert (got - other).norm() < 0.02 * other.norm()


@pytest.mark.gpu
def test_a_state_or_float32_goes_past_the_kernels_on_a_gpu(noise):
    q, k, v = (noise(1, 2, 40, 16, seed=i).cuda() for i in range(3))
    state = noise(1, 2, 16, 17, seed=3).abs().cuda()
    halves = [x.bfloat16() for x in (q, k, v)]
    for inputs, settings in ((halves, {"state": state}), (halves, {"keep_state": True}), ((q, k, v), {})):
        got, last = chunked_linear_attention(*inputs, **settings)
        keep = settings.get("keep_state", False)
        want, _ = batched(*inputs, settings.get("state"), None, FEATURE_MAPS["elu1"], 64, True, keep)
        assert torch.equal(got, want)
        assert (last is not None) is keep
