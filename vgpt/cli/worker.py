"""One process of a launched run: `python -m vgpt.cli.worker launch.json LOGS`; see vgpt.training.parallel.launch."""

import ctypes
import os
import signal
import sys
from pathlib import Path

from vgpt.threads import wait_asleep

_PR_SET_PDEATHSIG = 1


def main(settings: Path, logs: Path) -> int:
    """Train as the process that the environment says this is; leave the cause of a failure beside the logs."""
    die_with_parent()
    wait_asleep()
    from vgpt.cli.app import build_app
    from vgpt.cli.console import make_printable
    from vgpt.cli.live import data_bars, training_display
    from vgpt.errors import VgptError
    from vgpt.settings.train import TrainConfig
    from vgpt.training.checkpoints.files import write_json
    from vgpt.training.parallel.distributed import connection_broke, world_of_environment
    from vgpt.training.run import train_run

    make_printable()
    build_app([])  # loads the plug-ins that the launcher was given
    config = TrainConfig.model_validate_json(settings.read_bytes())
    world = world_of_environment()
    assert world is not None
    try:
        return train_run(config, training_display(), data_progress=data_bars(), world=world).exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # whatever it is, the launcher must be able to tell it
        code = (error.worker_code or error.exit_code) if isinstance(error, VgptError) else 70
        message = error.message if isinstance(error, VgptError) else f"{type(error).__name__}: {error}"
        broken = connection_broke(error)
        report = {"rank": world.rank, "code": code, "cause": message.splitlines()[0], "connection": broken}
        write_json(logs / f"error-{world.rank}.json", report)
        if not isinstance(error, VgptError):
            raise
        print(error, file=sys.stderr)
        return code


def die_with_parent() -> None:
    """Have this process asked to stop when the launcher dies, even by kill -9 (Linux; elsewhere it trains on)."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the call
            os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
