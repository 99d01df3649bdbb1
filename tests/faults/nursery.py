"""A warm process that starts training processes by fork: what a test kills again and again must start in an instant.

`python nursery.py` reads lines `SETTINGS.json` on its standard input. For each it forks a child that trains, and writes
`started PID`, then `ended STATUS` as `os.waitpid` gives it. `! SETTINGS.json` trains in the nursery itself.
"""

import os
import sys
import traceback
from pathlib import Path

import torch

from vgpt.settings.train import SystemSettings, TrainConfig
from vgpt.training.display import Quiet
from vgpt.training.hardware.devices import resolve
from vgpt.training.hardware.peak import peak_flops
from vgpt.training.run import train_run


def train(settings: str) -> int:
    return train_run(TrainConfig.model_validate_json(Path(settings).read_bytes()), Quiet()).exit_code


def child(settings: str) -> None:
    code = 70
    try:
        code = train(settings)
    except KeyboardInterrupt:
        code = 130
    except Exception:  # noqa: BLE001 - whatever it is: this process must not return to its parent's loop
        traceback.print_exc()
    finally:
        os._exit(code)


def answer(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main() -> None:
    torch.set_num_threads(1)
    # The probe of the peak takes most of a second and is kept; its children inherit it.
    peak_flops(resolve(SystemSettings(device="cpu", dtype="float32")))
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "!":
            answer("done", train(rest))
            continue
        pid = os.fork()
        if not pid:
            child(word)
        answer("started", pid)
        answer("ended", os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main()
