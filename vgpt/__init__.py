"""vgpt: a laboratory for attention. GPT-2 models that differ in their attention and in nothing else.

What the commands do, as functions, for notebooks and programs:

    import vgpt

    data = vgpt.prepare("play.txt", vocab_size=512, out="data/play")
    run = vgpt.train(attn="mla", preset="demo", data=data)
    run.evaluate().loss, run.sample("To be").texts
    vgpt.compare("mha", "gqa", "mla", preset="demo", data=data, run_missing=True)

Settings are called as the flags are, with `_` for `-`. Results show themselves in a notebook and have `.to_pandas()`.
What a user can mend is raised as `VgptError`, with a hint. Nothing is imported before it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vgpt.package import VERSION

if TYPE_CHECKING:
    from vgpt.api.comparing import Comparison, compare
    from vgpt.api.converting import Converted, convert
    from vgpt.api.evaluating import Evaluation
    from vgpt.api.preparing import Prepared, prepare
    from vgpt.api.probing import ProbeCard, probe
    from vgpt.api.runs import Run, evaluate, evaluate_suites, load, sample, train
    from vgpt.api.sampling import Samples
    from vgpt.api.settings import load_plugin
    from vgpt.api.suites import SuiteResults
    from vgpt.errors import VgptError

__all__ = [
    "Comparison",
    "Converted",
    "Evaluation",
    "Prepared",
    "ProbeCard",
    "Run",
    "Samples",
    "SuiteResults",
    "VgptError",
    "__version__",
    "compare",
    "convert",
    "evaluate",
    "evaluate_suites",
    "load",
    "load_plugin",
    "prepare",
    "probe",
    "sample",
    "train",
]

_HOMES = {
    "api.comparing": ("Comparison",),
    "api.converting": ("Converted", "convert"),
    "api.evaluating": ("Evaluation",),
    "api.preparing": ("Prepared", "prepare"),
    "api.probing": ("ProbeCard",),
    "api.runs": ("Run", "evaluate", "evaluate_suites", "load", "sample", "train"),
    "api.sampling": ("Samples",),
    "api.settings": ("load_plugin",),
    "api.suites": ("SuiteResults",),
    "errors": ("VgptError",),
    # The rooms of these names, which can be called.
    "compare": ("compare",),
    "probe": ("probe",),
}
_HOME = {name: f"vgpt.{home}" for home, names in _HOMES.items() for name in names}


__version__ = VERSION


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_HOME[name])
    return module if _HOME[name] == f"vgpt.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
