"""Variables that look like settings of vgpt and are none: a typo must not be a silent default."""

from collections.abc import Iterable, Mapping

from vgpt.attention.plugins import VARIABLE
from vgpt.errors import did_you_mean
from vgpt.settings.compare import CompareConfig
from vgpt.settings.evaluate import EvalConfig
from vgpt.settings.explain import ExplainConfig, VariantsConfig
from vgpt.settings.fields import leaves
from vgpt.settings.loader import Sources
from vgpt.settings.prepare import PrepareConfig
from vgpt.settings.runs import SyncConfig
from vgpt.settings.sample import SampleConfig
from vgpt.settings.tokenize import TokenizerConfig, TokenizerTrainConfig
from vgpt.settings.train import TrainConfig
from vgpt.settings.verify import VerifyConfig

_PREFIX = "VGPT_"
_COMMANDS = (
    *(TrainConfig, CompareConfig, EvalConfig, SampleConfig, PrepareConfig),
    *(ExplainConfig, VariantsConfig, SyncConfig, TokenizerConfig, TokenizerTrainConfig, VerifyConfig),
)
_OTHERS = {VARIABLE, "VGPT_DEBUG"}


def unknown_variables(sources: Sources) -> list[str]:
    """Return a remark for every variable with vgpt's prefix that no command reads, with the nearest that one does."""
    known = {leaf.env for model in _COMMANDS for leaf in leaves(model).values()} | _OTHERS
    places: Iterable[tuple[str, Mapping[str, str]]] = (("environment", sources.environment), (".env", sources.dotenv))
    return [
        f"{name} ({origin}) is no setting and is left out{did_you_mean(name, known)}"
        for origin, values in places
        for name in sorted(values)
        if name.startswith(_PREFIX) and name not in known
    ]
