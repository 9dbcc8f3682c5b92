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
    import pocketvit
    from pocketvit.config import resolve
    from pocketvit.data import load
    from pocketvit.training.device import make_accelerator
    from pocketvit.training.log import RunLog

    asked, known = dotted(job["settings"]), dotted(dataclasses.asdict(resolve()))
    shared = {name: value for name, value in asked.items() if name in known}
    answer({"package": pocketvit.__file__, "settings_on_one_side": sorted(asked.keys() ^ known.keys())})

    dataset = load(job["folder"], resolve(**shared).data, need_labels=True)
    accelerator, log = make_accelerator(job["device"], job["precision"]), RunLog(quiet=True)
    for line in sys.stdin:
        turn = json.loads(line)
        settings = resolve(**shared | turn["settings"])
        began = time.perf_counter()
        done = train(turn["stage"], dataset, settings, accelerator, log)
        answer({"steps": done.steps, "seconds": done.seconds, "call_seconds": time.perf_counter() - began})


def train(stage: str, dataset: Any, settings: Any, accelerator: Any, log: Any) -> Any:
    """A stage from random init, by today's entry or by that which commits before it had."""
    import numpy as np

    everything, tags = np.arange(len(dataset.train)), {"stage": stage}
    from_random: Any = {"seed": 0, "init": None}
    try:
        from pocketvit.training.finetune import finetuning
        from pocketvit.training.loop import train
        from pocketvit.training.pretrain import pretraining
    except ImportError:
        from pocketvit.training.finetune import finetune_classifier  # type: ignore[attr-defined]
        from pocketvit.training.pretrain import pretrain_mae  # type: ignore[attr-defined]

        if stage == "pretrain":
            return pretrain_mae(dataset, settings, accelerator, log=log)
        return finetune_classifier(dataset, everything, settings, accelerator, **from_random, log=log, tags=tags)
    if stage == "pretrain":
        return train(pretraining(dataset, settings, accelerator), log, tags)
    return train(finetuning(dataset, everything, settings, accelerator, **from_random), log, tags)


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
