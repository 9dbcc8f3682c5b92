"""One side of `throughput.py --against`: a process that trains with the PocketViT on its PYTHONPATH, turn by turn.

It calls only what every commit has, and nothing else of benchmarks/, which imports what this tree has. A line in is a
turn to take, a line out its answer, both JSON; the first line out says what was imported.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from typing import Any

Json = dict[str, Any]


def main(job: Json) -> None:
    """Answer until there are no more lines.

    Args:
        job: "folder" of the images, "device", "precision", and "settings" as dataclasses.asdict makes them.
    """
    import numpy as np

    import pocketvit
    from pocketvit.config import resolve
    from pocketvit.data import load
    from pocketvit.training.device import make_accelerator
    from pocketvit.training.finetune import finetune_classifier
    from pocketvit.training.log import RunLog
    from pocketvit.training.pretrain import pretrain_mae

    asked, known = dotted(job["settings"]), dotted(dataclasses.asdict(resolve()))
    shared = {name: value for name, value in asked.items() if name in known}
    answer({"package": pocketvit.__file__, "settings_on_one_side": sorted(asked.keys() ^ known.keys())})

    dataset = load(job["folder"], resolve(**shared).data, need_labels=True)
    accelerator, log = make_accelerator(job["device"], job["precision"]), RunLog(quiet=True)
    for line in sys.stdin:
        turn = json.loads(line)
        settings = resolve(**shared | turn["settings"])
        began = time.perf_counter()
        if turn["stage"] == "pretrain":
            done = pretrain_mae(dataset, settings, accelerator, log=log)
        else:
            everything, tags = np.arange(len(dataset.train)), {"stage": "finetune"}
            done = finetune_classifier(
                dataset, everything, settings, accelerator, seed=0, init=None, log=log, tags=tags
            )  # fmt: skip
        answer({"steps": done.steps, "seconds": done.seconds, "call_seconds": time.perf_counter() - began})


def dotted(values: Json, prefix: str = "") -> Json:
    """Nested settings by their dotted names."""
    flat: Json = {}
    for name, value in values.items():
        flat |= dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def answer(found: Json) -> None:
    """A line for whoever asked."""
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
