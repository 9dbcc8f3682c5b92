"""Run a recipe from raw images to test accuracy: pre-train, fine-tune each arm, test; then finish.py's evidence.

    python benchmarks/reproduce.py lite-cifar10
    python benchmarks/reproduce.py lite-cifar10 --arms mae --pace pace --time-limit 15m

The same command goes on where it stopped. With --time-limit, the planner chooses the epochs, a stage that runs late
lands, and what needs no device any more (probes, raw pixels, report) is left to finish.py, here or elsewhere.
docs/reproduce.md says what is written where.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shlex
import sys
import time
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / "src"), str(REPO / "benchmarks")]  # a clone runs as it is

import finish  # noqa: E402
import planner  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from common import default_source, flags_of, settings_in  # noqa: E402

from pocketvit.config import Settings, recipe_path, resolve, seconds_of  # noqa: E402
from pocketvit.data import Dataset, load  # noqa: E402
from pocketvit.errors import UserError  # noqa: E402
from pocketvit.files import write_whole  # noqa: E402
from pocketvit.model import weights  # noqa: E402
from pocketvit.run.evidence import evidence  # noqa: E402
from pocketvit.run.folder import CONFIG  # noqa: E402
from pocketvit.run.opening import open_run, settle  # noqa: E402
from pocketvit.stages.arms import Arm, arms_named, known_arms  # noqa: E402
from pocketvit.stages.comparison import finetune_arms  # noqa: E402
from pocketvit.stages.context import Context  # noqa: E402
from pocketvit.stages.finetuning import finetune_key  # noqa: E402
from pocketvit.stages.images import patching_of  # noqa: E402
from pocketvit.stages.plan import Plan  # noqa: E402
from pocketvit.stages.pretraining import pretrain_stage  # noqa: E402
from pocketvit.training.device import describe, make_accelerator  # noqa: E402
from pocketvit.training.stops import Interrupted, NonFiniteLoss, Paused  # noqa: E402

Json = dict[str, Any]


def main(argv: list[str] | None = None) -> int:
    """Run or go on with one recipe; returns the exit status, as `pocketvit` does."""
    # A promise of time counts from when the command was typed.
    began = time.monotonic() - (time.time() - psutil.Process().create_time()) if argv is None else time.monotonic()
    try:
        job = Job.parse(argv)
        reproduce(job, began)
        if job.time_limit:
            print(f"{job.folder}: trained and tested; next: python benchmarks/finish.py {job.folder}")
            return 0
        finish.finish(job.folder, job.data, job.out)
        return 0
    except Paused:
        print(f"{job.folder}: not finished: the same command goes on", file=sys.stderr)
        return 0
    except Interrupted as stop:
        print(f"{job.folder}: stopped by signal {stop.signum}: the same command goes on", file=sys.stderr)
        return 128 + stop.signum
    except KeyboardInterrupt:
        return 130
    except (UserError, NonFiniteLoss) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be run; `changes` are settings that the command line gives beside the recipe."""

    recipe: str
    arms: tuple[Arm, ...]
    data: str
    seed: int
    device: str
    changes: dict[str, str]
    time_limit: str | None
    pause_after: str | None
    pace: Path | None
    out: Path | None
    overwrite: bool
    accelerator: Accelerator

    @classmethod
    def parse(cls, argv: list[str] | None) -> Job:
        """From the command line; raises UserError."""
        parser = argparse.ArgumentParser(
            prog="reproduce.py",
            description="Pre-train, fine-tune from MAE and from random init, test; then write the evidence. "
            "The same command goes on with a run that is not finished.",
            epilog="Any other --NAME VALUE is a setting, as for `pocketvit fit`: --pretrain.epochs 5, "
            "--label-fraction 0.1. With such a change nothing is published: evidence and weights stay in the run's "
            "directory.",
            allow_abbrev=False,
        )
        parser.add_argument("recipe", help="name of a recipe, or a YAML file")
        parser.add_argument("--arms", default="mae,random", help="what to fine-tune (default: mae,random)")
        parser.add_argument("--data", help="source of images (default: cifar10 for a recipe named X-cifar10)")
        parser.add_argument("--seed", type=int, default=0, help="of everything but the splits (default: 0)")
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
        parser.add_argument("--images", help="train images to use (default: all)")
        parser.add_argument("--time-limit", help="as 15m: choose the epochs, land where late, and be tested by then")
        parser.add_argument("--pace", type=Path, help="folder that pace.py wrote (default: measured at the start)")
        parser.add_argument("--pause-after", help="as 9m: save and stop; the next call goes on")
        parser.add_argument("--out", type=Path, help="folder for results/ and models/ (default: this checkout)")
        parser.add_argument("--overwrite", action="store_true", help="start afresh")
        given, rest = parser.parse_known_args(argv)
        stem = recipe_path(given.recipe).stem
        # Its plans know the pace of one network.
        names, known = given.arms.split(","), [arm.name for arm in known_arms() if arm.network == "vit"]
        if not set(names) <= set(known):
            raise UserError(f"--arms {given.arms}: expected one or more of {', '.join(known)}, joined by commas")
        arms = arms_named(names)
        changes = settings_in(rest) | ({"data.images": given.images} if given.images else {})
        for name in ("time_limit", "pause_after"):
            if getattr(given, name) is not None:
                seconds_of(getattr(given, name))
        if given.time_limit and any(name.endswith("epochs") for name in changes):
            raise UserError("--time-limit chooses the epochs: leave one of the two out")
        settings = resolve(given.recipe, **{**changes, "seed": given.seed, "device": given.device})
        return cls(
            given.recipe, arms, given.data or default_source(stem), given.seed, given.device, changes,
            given.time_limit, given.pause_after, given.pace, given.out, given.overwrite,
            make_accelerator(settings.device, settings.precision, settings.deterministic),
        )  # fmt: skip

    @property
    def folder(self) -> Path:
        """The run directory: RECIPE-SEED, with a mark of the changes where there are any."""
        mark = hashlib.blake2b(json.dumps(self.changes, sort_keys=True).encode(), digest_size=3).hexdigest()
        stem = recipe_path(self.recipe).stem
        return Path("runs") / f"{stem}-{self.seed}{f'-changed-{mark}' if self.changes else ''}"

    @property
    def names(self) -> list[str]:
        """Of the arms."""
        return [arm.name for arm in self.arms]

    @property
    def command(self) -> str:
        """What to type for the same result: no paths, and no slices."""
        words = [self.recipe, "--seed", str(self.seed), "--arms", ",".join(self.names)]
        words += ["--time-limit", self.time_limit] if self.time_limit else []
        words += flags_of(self.changes)
        return f"python benchmarks/reproduce.py {shlex.join(words)}"

    def settings(self, plan: Json) -> Settings:
        """The recipe's, with the changes and with what a plan has chosen."""
        planned = {f"{stage}.epochs": count for stage, count in plan.get("epochs", {}).items()}
        planned |= {"compile": plan["compile"]} if "compile" in plan else {}
        return resolve(self.recipe, **{**self.changes, **planned, "seed": self.seed, "device": self.device})

    def load(self) -> Dataset:
        """The images, from the cache where they were decoded before."""
        settings = self.settings({})
        return load(self.data, settings.data, patching=patching_of(settings), need_labels=True)


def reproduce(job: Job, began: float) -> None:
    """Plan, unless there is a plan; train and test, or go on.

    Args:
        job: what to run.
        began: when this call did, on time.monotonic's clock.

    Raises:
        Paused: at job.pause_after.
        UserError, NonFiniteLoss, Interrupted: as `pocketvit.fit`.
    """
    folder = job.folder
    if job.overwrite or not (folder / CONFIG).is_file():
        dataset = job.load()  # what is wrong with the data is said before anything is written
        plan = make_plan(job, dataset, began) if job.time_limit else {}
        stem = recipe_path(job.recipe).stem
        open_run(folder, folder.name, job.settings(plan), job.overwrite, resume=False, own=finish.files_of(stem))
        settle(folder)
        write_whole(folder / finish.PLAN, json.dumps(plan, indent=1) + "\n")
        identity = {"recipe": job.recipe, "seed": job.seed, "changes": job.changes, "device": job.device}
        write_whole(folder / finish.JOB, json.dumps(identity, indent=1) + "\n")
    plan = finish.read(folder / finish.PLAN)
    context = Context.open(
        "fit", job.data, job.settings(plan), out=folder, overwrite=False, resume=True,
        pause_after=job.pause_after,
        need_labels=True, began=began,
    )  # fmt: skip
    if job.time_limit:
        context = dataclasses.replace(context, plan=timetable(job, context))
    finished = False
    try:
        train(context, job.arms)
        finished = True
    finally:
        note_call(job, context, began, finished)


def make_plan(job: Job, dataset: Dataset, began: float) -> Json:
    """The plan for job.time_limit, from pace.py's figures or from some steps now."""
    assert job.time_limit is not None
    settings, total = job.settings({}), seconds_of(job.time_limit)
    paces = {stage: job.pace and planner.read_pace(job.pace, stage) for stage in planner.STAGES}
    for stage in (stage for stage, pace in paces.items() if pace is None):
        paces[stage] = {"eager": planner.measure(stage, dataset, settings, job.accelerator, "never")}
    spent, per_epoch = time.monotonic() - began, planner.steps_per_epoch(dataset, settings)
    plan = planner.make_plan(total, spent, paces, per_epoch, job.arms)
    print(f"plan for {job.time_limit}: {json.dumps({**plan, 'paces': None})}", file=sys.stderr)
    return plan


def timetable(job: Job, context: Context) -> Plan:
    """When the stages have to be over.

    Earlier calls for the same arms have spent some of the time; an arm that joins has its own, and the others' steps.
    """
    assert job.time_limit is not None
    same = [call["seconds"] for call in finish.calls_of(job.folder) if call["arms"] == job.names]
    begin = sum(context.clock.stages.values()) - sum(same)
    keys = [f"pretrain-{arm.objective}" for arm in job.arms if arm.objective]
    keys += [finetune_key(arm.name, context.settings.data.largest_budget, job.seed) for arm in job.arms]
    return planner.timetable(job.arms, keys, begin + seconds_of(job.time_limit))


def train(context: Context, arms: tuple[Arm, ...]) -> None:
    """Pre-train where an arm needs it, fine-tune the arms and test them; the stages of the run keep the results."""
    for objective in (arm.objective for arm in arms if arm.objective):
        file = context.folder.pretrained(objective)
        pretrain_stage(context, objective, file)
        # Halved, as they are shipped, before anything starts from them: who has the file can repeat the rest.
        context.on_main(partial(weights.save, file, *weights.load(file), torch.float16))
    finetune_arms(context, arms)


def note_call(job: Job, context: Context, began: float, finished: bool) -> None:
    """Append to calls.jsonl what this call took, where, and of which code."""
    on_gpu = job.accelerator.device.type == "cuda"
    call = {
        **evidence("fit"), **describe(job.accelerator),
        "command": job.command, "arms": job.names,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began, 1),
        "peak_memory_mb": round(torch.cuda.max_memory_allocated() / 1e6, 1) if on_gpu else None,
        "finished": finished,
    }  # fmt: skip
    with (context.folder.root / finish.CALLS).open("a") as file:
        file.write(json.dumps(call) + "\n")


if __name__ == "__main__":
    sys.exit(main())
