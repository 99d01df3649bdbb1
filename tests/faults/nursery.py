"""A warm process that starts training processes by fork: what a test kills again and again must start in an instant.

`python nursery.py` reads lines `SETTINGS.json` on its standard input. For each it forks a child that trains, and writes
`started PID`, then `ended STATUS` as `os.waitpid` gives it. `! SETTINGS.json` trains in the nursery itself first.
"""

import os
import sys
import traceback
from pathlib import Path

import torch

from vgpt.settings.train import TrainConfig
from vgpt.training.display import Quiet
from vgpt.training.run import train_run


def train(settings: str) -> int:
    return train_run(TrainConfig.model_validate_json(Path(settings).read_bytes()), Quiet()).exit_code


def child(settings: str) -> None:
    code = 70
    try:
        code = train(settings)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "!":
            print("done", train(rest), flush=True)
            continue
        pid = os.fork()
        if not pid:
            child(word)
        print("started", pid, flush=True)
        print("ended", os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()
