"""`vgpt explain`: what it says of a variant is what the variant's module and settings are."""

import json
import subprocess
import sys

import numpy as np
import pytest

from vgpt.attention import plugins, registry
from vgpt.attention.build import build_attention, parameter_shapes
from vgpt.attention.config import AttentionConfig, Shape
from vgpt.attention.grammar import full_label, resolve_attention, short_label
from vgpt.attention.grouped.config import MHAConfig
from vgpt.attention.registry import variants
from vgpt.describe.mask import mask_for_terminal, mask_of
from vgpt.model.config import GPT2Config
from vgpt.model.costs import cache_bytes, cache_read_bytes, count_parameters, decode_flops, forward_flops

PLUGIN = '''
"""Patterns for pictures.

Sources: first, one (arXiv 0000.00001);
second, other.
"""
from vgpt.attention.config import AttentionConfig, CacheCost
from vgpt.attention.grouped.config import MHAConfig
from vgpt.attention.grammar import resolve_attention
from vgpt.attention.registry import register_attention

MODULE = "vgpt.attention.grouped.module:GroupedAttention"

@register_attention("band", module=MODULE, summary="a band of tokens")
class Band(MHAConfig):
    """A band.

    It is narrow.

    Source: somebody, somewhere
    (section 3).
    """

    width: int = 8
    """tokens that are seen"""
    positions = ("learned", "none")
    unsupported = {"rope": "it is only for tests"}

    def visible(self, q, k, layer=0, head=0):
        return (k <= q) & (q - k < self.width + 4 * head)

    def cache_cost(self, shape):
        return CacheCost(per_token=super().cache_cost(shape).per_token, read_span=self.width)

    def confounds(self, shape):
        return ["its heads are of different reach"]

@register_attention("layered", module="", summary="bands below, mha on top")
class Layered(MHAConfig):
    def at(self, layer):
        return resolve_attention("mha" if layer in (2, 5) else "band")

@register_attention("liar", module=MODULE, summary="states one parameter too many")
class Liar(MHAConfig):
    def params(self, shape): return super().params(shape) + 1

@register_attention("silent", module=MODULE, summary="states nothing")
class Silent(AttentionConfig): ...
'''
SHAPE = ["--n-layer", "6", "--n-head", "4", "--n-embd", "64", "--block-size", "96"]


@pytest.fixture
def pattern(tmp_path, monkeypatch):
    """A plug-in with patterns worth a picture."""
    variants()
    for module, name in ((registry, "_configs"), (registry, "_modules"), (plugins, "_origins")):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    monkeypatch.setenv("VGPT_PLUGINS", "")
    path = tmp_path / "pattern.py"
    path.write_text(PLUGIN)
    return path


@pytest.fixture
def explained(vgpt):
    """Run `vgpt explain ... --json`."""

    def run(*words):
        done = vgpt("explain", *words, "--json")
        assert done.code == 0, done.err
        return json.loads(done.out)

    return run


def gpt2(attn, **changes):
    shape = {"n_layer": 6, "n_head": 4, "n_embd": 64, "block_size": 96}
    return GPT2Config(attn=attn, vocab_size=100, **(shape | changes))


@pytest.mark.parametrize("kind", [kind for kind, config in variants().items() if issubclass(config, AttentionConfig)])
@pytest.mark.parametrize("bias", [True, False])
def test_shapes_are_those_of_the_real_module(kind, bias):
    shape = Shape(64, 4, 32, bias=bias)
    config = resolve_attention(kind)
    module = build_attention(config, shape)
    shapes = parameter_shapes(config, shape)
    assert shapes == {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    assert sum(int(np.prod(size)) for size in shapes.values()) == config.params(shape)


@pytest.mark.parametrize("attn", ["mha", "mqa", "gqa:n_kv_head=2"])
def test_costs_are_those_of_the_model(explained, attn):
    got, model = explained(attn, *SHAPE), gpt2(attn)
    rest = 6 * 96 * 4 * 64 * model.hidden + 96 * 2 * 64 * 100
    assert got["all_layers"]["params"] == count_parameters(model).attention
    assert got["all_layers"]["forward_flops_per_token"] * 96 == forward_flops(model, 96) - rest
    assert got["all_layers"]["train_flops_per_token"] * 96 == 3 * (forward_flops(model, 96) - rest)
    assert got["all_layers"]["forward_flops_per_token_dense"] * 96 == forward_flops(model, 96, dense=True) - rest
    (layer,) = got["layers"]
    assert layer["params"] == layer["params_counted"] == got["all_layers"]["params"] / 6
    for row in got["cache"]["contexts"]:
        assert row["bytes"] == cache_bytes(model, row["context"], 2)
        assert row["read_bytes"] == cache_read_bytes(model, row["context"], 2)
        assert row["bytes_of_mha"] == cache_bytes(gpt2("mha"), row["context"], 2)
        assert row["decode_flops"] == decode_flops(model, row["context"]) - rest / 96
    assert [row["context"] for row in got["cache"]["contexts"]] == [256, 512, 1024, 2048, 4096, 8192, 16384, 32768]


def test_gpt2_small_is_explained_with_its_known_numbers(vgpt):
    text = vgpt("explain", "gqa:n_kv_head=4", "--preset", "gpt2-small").out
    assert "1280 x 768" in text
    assert "1,574,912" in text
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert lines["8,192"][1:4] == ["96", "MiB", "33.3%"]


def test_settings_of_the_variant_are_flags_and_shown_with_their_help(vgpt, explained):
    assert explained("gqa", "--n-kv-head", "3")["layers"][0]["settings"] == {"kind": "gqa", "n_kv_head": 3}
    assert explained("gqa", "--preset", "gpt2-small")["attention"] == "gqa:n_kv_head=4"
    assert "--n-kv-head  3  key/value heads" in vgpt("explain", "gqa:n_kv_head=3").out


def test_where_it_is_from_stands_in_the_class_or_in_its_file(explained, pattern):
    assert explained("band", "--plugin", pattern)["sources"] == "Source: somebody, somewhere (section 3)."
    assert explained("liar", "--plugin", pattern)["sources"].startswith(
        "Sources: first, one (arXiv 0000.00001); second"
    )
    assert "arXiv 2305.13245" in explained("gqa")["sources"]


def test_positions_and_switches_are_named_with_the_reasons_against(vgpt, explained, pattern):
    got = explained("band", "--plugin", pattern)
    assert got["positions"] == {
        "learned": True,
        "rope": "it is only for tests",
        "none": True,
        "alibi": "band has no use for it",
    }
    assert got["switches"] == {"qk_norm": True, "out_gate": True, "sinks": True}
    assert got["confounds"] == ["its heads are of different reach"]
    text = vgpt("explain", "band", "--plugin", pattern).out
    assert "not --pos rope: it is only for tests" in text
    assert "its heads are of different reach" in text


@pytest.mark.parametrize(
    ("attn", "short"),
    [("gqa", "gqa"), ("gqa:n_kv_head=4", "gqa:n_kv_head=4"), ("2xgqa+gqa:n_kv_head=1", "2xgqa+gqa:n_kv_head=1")],
)
def test_a_short_label_leaves_out_defaults_and_means_the_same(attn, short):
    config = resolve_attention(attn)
    assert short_label(config) == short
    assert resolve_attention(short_label(config)) == resolve_attention(full_label(config)) == config


def test_layers_that_differ_are_explained_apart_and_summed(vgpt, explained, pattern):
    got = explained("layered", *SHAPE, "--plugin", pattern)
    assert [(part["layers"], part["attention"]) for part in got["layers"]] == [
        ([0, 1, 3, 4], "band:width=8"),
        ([2, 5], "mha"),
    ]
    assert got["plugins"] == [str(pattern)]
    text = vgpt("explain", "layered", *SHAPE, "--plugin", pattern).out
    assert "layers 0-1, 3-4: band\n" in text
    assert "Who sees whom: layer 0, head 0 (heads differ), 96 tokens" in text
    assert "Who sees whom: layer 2, head 0, 96 tokens" in text


def test_a_wrong_parameter_count_is_shown(vgpt, explained, pattern):
    (part,) = explained("liar", "--plugin", pattern)["layers"]
    assert part["params"] == part["params_counted"] + 1
    assert "its settings state" in vgpt("explain", "liar", "--plugin", pattern).out


def test_costs_that_are_not_stated_are_an_error_with_the_way_out(vgpt, pattern):
    done = vgpt("explain", "silent", "--plugin", pattern)
    assert (done.code, done.out) == (1, "")
    assert "attention 'silent' does not say what it costs" in done.err


class Every(MHAConfig):
    """Each second token, differently in each head."""

    def visible(self, q, k, layer=0, head=0):
        return (k <= q) & ((q - k) % (2 + head) == 0)


@pytest.mark.parametrize(("tokens", "rows", "columns"), [(1, 32, 32), (7, 32, 32), (50, 8, 13), (64, 32, 64)])
@pytest.mark.parametrize("head", [0, 1])
def test_cells_are_shares_of_the_pairs_counted_one_by_one(tokens, rows, columns, head):
    config = Every()
    mask = mask_of(config, tokens, rows, columns, head=head)
    height, width = mask.cells.shape
    assert (height, width) == (min(rows, tokens), min(columns, tokens))
    for i in range(height):
        for j in range(width):
            queries = range(i * tokens // height, (i + 1) * tokens // height)
            keys = range(j * tokens // width, (j + 1) * tokens // width)
            pairs = [(q, k) for q in queries for k in keys if k <= q]
            seen = [pair for pair in pairs if config.visible(*pair, 0, head)]
            if pairs:
                assert mask.cells[i, j] == len(seen) / len(pairs)
            else:
                assert np.isnan(mask.cells[i, j])


def test_a_short_mask_is_drawn_pair_by_pair(explained, pattern):
    got = explained("band:width=2", "--mask-tokens", "4", "--plugin", pattern)["layers"][0]["mask"]
    assert got["picture"] == ["██", "████", "··████", "····████"]
    assert got["heads_differ"]


def test_a_long_mask_is_shaded_and_its_future_is_blank():
    lines = mask_for_terminal(MHAConfig(), 1024).lines()
    assert lines == ["█" * (2 * i + 2) for i in range(32)]
    half = mask_for_terminal(Every(), 1024).lines()
    assert set(half[-1][:-2]) == {"▒"}


def test_the_picture_shows_the_live_settings(explained, pattern):
    def picture(width):
        words = ["band", "--width", width, "--mask-tokens", "64", "--plugin", pattern]
        return explained(*words)["layers"][0]["mask"]["picture"]

    assert picture(4)[-1].count("█") < picture(32)[-1].count("█")


def test_the_picture_defaults_to_the_context_and_at_most_2048_tokens(explained):
    assert explained("mha", "--block-size", "300")["layers"][0]["mask"]["tokens"] == 300
    assert explained("mha", "--block-size", "100000")["layers"][0]["mask"]["tokens"] == 2048


@pytest.mark.parametrize("attn", ["mqa", "band", "layered"])
def test_a_png_is_written(vgpt, pattern, tmp_path, attn):
    target = tmp_path / "picture.png"
    done = vgpt("explain", attn, *SHAPE, "--plugin", pattern, "--png", target)
    assert done.code == 0
    assert target.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "Parameters of one layer" in done.out


@pytest.mark.parametrize("name", ["nowhere/picture.png", "picture.xyz"])
def test_a_picture_that_cannot_be_written_is_an_error(vgpt, tmp_path, name):
    done = vgpt("explain", "mha", *SHAPE, "--png", tmp_path / name)
    assert (done.code, done.out) == (1, "")
    assert "cannot be written" in " ".join(done.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Missing argument"),
        (["gpa"], "unknown attention 'gpa'; did you mean 'gqa'"),
        (["mqa", "--n-kv-head", "2"], "--n-kv-head does not apply to --attn mqa"),
        (["gqa", "--n-kv-head", "4"], "--n-kv-head 4 must divide --n-head 6"),
        (["mha", "--attn", "mqa"], "No such option"),
        (["mha", "--kv-dtype", "int8"], "--kv-dtype = 'int8'"),
    ],
)
def test_wrong_words_are_usage_errors(vgpt, words, message):
    done = vgpt("explain", *words)
    assert done.code == 2
    assert done.out == ""
    assert message in " ".join(done.err.replace("│", " ").split())


@pytest.mark.parametrize("command", ["variants", "explain"])
def test_help_and_lists_need_neither_torch_nor_matplotlib(command):
    words = [command, "--help"] if command == "explain" else [command]
    code = (
        "import sys\nfrom vgpt.cli.app import build_app\n"
        f"try: build_app()({words!r})\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'mlflow', 'matplotlib') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout


def test_the_text_fits_eighty_columns(vgpt, monkeypatch, pattern):
    monkeypatch.setenv("COLUMNS", "80")
    for attn in ("gqa", "layered"):
        lines = vgpt("explain", attn, *SHAPE, "--plugin", pattern).out.splitlines()
        assert max(map(len, lines)) <= 80
