"""Mutated weights, `.env` files and tracking addresses: read, or refused in a sentence, and no secret is shown."""

import json
import random
import struct
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.faults.mutations import ADDRESSES as SIGNS
from tests.faults.mutations import fingerprint, mutated
from vgpt.addresses import masked_text
from vgpt.errors import SettingsError, TrackingError, VgptError
from vgpt.model.interchange import load_gpt2_safetensors
from vgpt.settings.dotenv import read_dotenv
from vgpt.tracking.mlflow_store.target import resolve_target

SECRET = "canary01birdseed"


def cases(count: int) -> Iterator[random.Random]:
    """Yield as many sources of chance, each with a seed that its failure can be repeated by."""
    for seed in range(count):
        yield random.Random(seed)


MANY = pytest.param(2000, marks=pytest.mark.slow)
CONFIG = {"model_type": "gpt2", "vocab_size": 31, "n_positions": 12, "n_embd": 16, "n_layer": 1, "n_head": 4}


def tiny() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    sizes = {"wte.weight": (31, 16), "wpe.weight": (12, 16), "ln_f.weight": (16,), "ln_f.bias": (16,)}
    sizes |= {f"h.0.ln_{n}.{part}": (16,) for n in (1, 2) for part in ("weight", "bias")}
    for name, (rows, columns) in {"attn.c_attn": (16, 48), "attn.c_proj": (16, 16), "mlp.c_fc": (16, 64)}.items():
        sizes |= {f"h.0.{name}.weight": (rows, columns), f"h.0.{name}.bias": (columns,)}
    sizes |= {"h.0.mlp.c_proj.weight": (64, 16), "h.0.mlp.c_proj.bias": (16,)}
    return {f"transformer.{name}": torch.randn(size) for name, size in sizes.items()}


@pytest.mark.parametrize("count", [100, MANY])
def test_mutated_directories_of_weights_are_read_or_refused(tmp_path, count):
    place, outside = tmp_path / "hub", tmp_path / "outside"
    place.mkdir()
    outside.mkdir()
    weights = tiny()
    names = sorted(weights)
    table = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(names)}
    for file in set(table.values()):
        save_file({name: weights[name] for name in names if table[name] == file}, place / file)
    save_file(weights, outside / "model.safetensors")
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    (place / "config.json").write_text(json.dumps(CONFIG))
    load_gpt2_safetensors(place)
    whole = {path.name: path.read_bytes() for path in place.iterdir()}
    before, refused = fingerprint(outside), 0
    for chance in cases(count):
        name = chance.choice(sorted(whole))
        content = whole[name]
        # The numbers of a file of weights are most of it; what can be wrong stands before them.
        head = 8 + struct.unpack("<Q", content[:8])[0] if name.endswith(".safetensors") else len(content)
        (place / name).write_bytes(mutated(content[:head], chance) + content[head:])
        held = fingerprint(place)
        try:
            model = load_gpt2_safetensors(place)
            assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
        except VgptError as error:
            assert error.message.strip()  # noqa: PT017 - either way out is fine
            refused += 1
        except Exception as error:
            raise AssertionError(f"{name} {(place / name).read_bytes()[:head]!r}: {error!r}") from error
        assert fingerprint(place) == held
        (place / name).write_bytes(content)
    assert fingerprint(outside) == before
    assert refused > count / 3
    assert load_file(outside / "model.safetensors").keys() == weights.keys()


DOTENV = (
    f'# note\r\nexport MLFLOW_TRACKING_URI=http://al:{SECRET}@host:5000 # here\nA="two\n{SECRET}\nlines" # x\n'
    f"B='{SECRET}'\nMLFLOW_TRACKING_TOKEN={SECRET}\nVGPT_LR=1\n\n"
).encode()


@pytest.mark.parametrize("count", [300, MANY])
def test_mutated_dotenv_files_are_read_or_refused_without_showing_them(tmp_path, monkeypatch, count):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ".env"
    taken = refused = 0
    for chance in cases(count):
        content = mutated(DOTENV, chance)
        path.write_bytes(content)
        try:
            values = read_dotenv(path)
            assert all("\0" not in text for text in (*values, *values.values()))
            assert SECRET not in repr(resolve_target(must_serve=False))
            taken += 1
        except SettingsError as error:
            assert SECRET not in str(error)  # noqa: PT017 - either way out is fine
            refused += 1
        except Exception as error:
            raise AssertionError(f"{content!r}: {error!r}") from error
        assert fingerprint(tmp_path).keys() == {".env"}
    assert taken > count / 10
    assert refused > count / 10


ADDRESSES = [
    f"http://al:{SECRET}@host:5000/path",
    f"https://al:{SECRET}@[::1]:5000",
    f"postgresql+psycopg2://al:{SECRET}@host:5432/db?sslmode=require",
    f"mysql+pymysql://{SECRET}@a:1,b:2/db",
]


@pytest.mark.parametrize("count", [1000, MANY])
def test_mutated_addresses_are_taken_or_refused_and_show_no_secret(tmp_path, monkeypatch, count):
    """What is mutated stands around the secret, which itself is whole: every way to break the grammar around it."""
    monkeypatch.chdir(tmp_path)
    taken = refused = 0
    for chance in cases(count):
        whole = chance.choice(ADDRESSES)
        scheme, user, *rest = whole.partition(SECRET)[0], SECRET, whole.partition(SECRET)[2]
        before = (
            scheme
            if chance.random() < 0.7
            else mutated(scheme.encode(), chance, SIGNS).decode("utf-8", "surrogateescape")
        )
        after = mutated("".join(rest).encode(), chance, SIGNS).decode("utf-8", "surrogateescape")
        spoilt = chance.choice(["", "/", "?", "#", "[", "]", ":", "@", "%", " ", "\\", "1/", "'"])
        address = f"{before}{spoilt}{user}{after}"
        if "@" not in after:
            continue  # what was a password is a host, or part of a path
        target = resolve_target(address, must_serve=False)
        texts = [target.shown, repr(target), target.redact(f"cannot reach {address}")]
        inner = address.partition("://")[2].partition(user)
        # In a text a space ends an address, and `host/name@part` is a path and no secret.
        if ":" in inner[0] and len(address.split()) == 1:
            texts.append(masked_text(address))
        # A password stands behind the first `://`; without one before it there is no address that it belongs to.
        is_address = "://" in address.partition(SECRET)[0]
        assert not is_address or SECRET not in "".join(texts), (address, texts)
        try:
            resolve_target(address)
            taken += 1
        except TrackingError as error:
            assert not is_address or SECRET not in str(error), (address, str(error))  # noqa: PT017
            refused += 1
        except Exception as error:
            raise AssertionError(f"{address!r}: {error!r}") from error
        assert list(tmp_path.iterdir()) == []
    assert taken > count / 20
    assert refused > count / 20
