"""The verbs that train: fit, pretrain and finetune."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pocketvit.config import Settings, resolve, seconds_of
from pocketvit.data import Arrays, Spec
from pocketvit.data.sources import find
from pocketvit.errors import UserError
from pocketvit.files import copy_whole, expanded, read_json, write_whole
from pocketvit.pages import words
from pocketvit.pages.page import write_report
from pocketvit.pages.terminal import MEASURING, introduce, place_line, plan_lines
from pocketvit.run.folder import RunFolder
from pocketvit.run.opening import discard, settle
from pocketvit.run.summary import printable
from pocketvit.stages.arms import Arm, arm_of, arms_of
from pocketvit.stages.baselines import pixels_stage, probe_stage
from pocketvit.stages.comparison import choice, finetune_arms, initial, pretrain_arms, table
from pocketvit.stages.context import Context
from pocketvit.stages.finetuning import finetune_key, finetune_stage
from pocketvit.stages.labels import labels_stage
from pocketvit.stages.plan import Plan, make_plan, plan_arms
from pocketvit.stages.pretraining import pretrain_stage
from pocketvit.stages.results import plan_and_truth, write_results
from pocketvit.stages.speeds import outlay
from pocketvit.training.device import from_main
from pocketvit.verbs.asked import Data, asked, settings_for, spec_of
from pocketvit.verbs.models import init_of
from pocketvit.verbs.runs import Run

HALF_AN_HOUR = 1800.0


def fit(
    data: Data = "digits",
    *,
    init: Run | str | Path | None = None,
    recipe: str | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    pause_after: str | float | None = None,
    time_limit: str | float | None = None,
    settings: Settings | None = None,
    elastic: bool | None = None,
    began: float | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> Run:
    """Images in; a tested classifier and a report out.

    Pre-trains on every train image, then fine-tunes from those weights, and trains the other arms from scratch for
    equally many steps, at each label budget and seed, beside baselines on raw pixels. What is saved as the classifier
    is the arm that did best on the validation images at the largest budget; or, where these have more labels than that,
    the one from MAE. Arguments and errors as for `pretrain`; `epochs`, `batch_size` and `lr` mean pre-training here.

    Args:
        init: a run, a weights file or a shipped model's name, whose encoder takes the place of pre-training here.
        time_limit: seconds, or as "10m", by which all is over, counted from `began`: lengths are chosen to fill it, and
            a stage that runs late lands. Where it is short, seeds give way first, then arms from scratch, then
            lengths. A run that is resumed keeps its own.
        elastic: whether on a CPU the recipe's lengths give way where they would take more than half an hour; None
            asks for that where neither a recipe nor settings are given.
        began: on time.monotonic's clock; None for now.
        quiet: say nothing on stderr.

    Raises:
        UserError: also, a time limit that cannot be kept; the message says what could.
    """
    data, settings, elastic = asked(data, recipe, config, settings, elastic, overrides)
    limit = None if time_limit is None else seconds_of(time_limit)
    context = Context.open(
        "fit", data, settings, out=out, overwrite=overwrite, resume=resume, pause_after=pause_after, need_labels=True,
        init=init_of(init), began=began, quiet=quiet,
    )  # fmt: skip
    introduce(context, doubts=not resume)
    _note_call(context, "fit", data, time_limit=time_limit, elastic=elastic)
    context = _planned(context, limit, elastic, resume)
    _begin(context)
    return complete(context, plan_arms(context.plan))


def plan(
    data: Data = "digits",
    *,
    init: Run | str | Path | None = None,
    recipe: str | None = None,
    config: str | Path | None = None,
    time_limit: str | float | None = None,
    settings: Settings | None = None,
    elastic: bool | None = None,
    began: float | None = None,
    **overrides: Any,
) -> Plan:
    """What `fit` would do with the same arguments, and how long that would take here; it writes no run.

    Raises:
        UserError: as `fit`.
    """
    data, settings, elastic = asked(data, recipe, config, settings, elastic, overrides)
    limit = None if time_limit is None else seconds_of(time_limit)
    with TemporaryDirectory() as folder:
        context = Context.open(
            "fit", data, settings, out=Path(folder) / "run", overwrite=False, resume=False, pause_after=None,
            need_labels=True, init=init_of(init), began=began,
        )  # fmt: skip
        introduce(context, doubts=True)
        return _planned(context, limit, elastic, resume=False).plan


def _planned(context: Context, limit: float | None, elastic: bool, resume: bool) -> Context:
    """By the plan that the run has or, before its first stage, by one that is made now, and said."""
    file = context.folder.plan
    kept = context.on_main(lambda: read_json(file) if file.exists() else None)
    if kept is not None:
        made = Plan.of(kept)
        if limit not in (None, made.limit):
            before = f"with {made.limit:.0f}s" if made.limit else "without one"
            raise UserError(f"--time-limit: {context.folder.root} was begun {before}: repeat that, or leave it out")
        return context.planned(made)
    try:
        arms = arms_of(context.settings)
        if context.init and not any(arm.objective for arm in arms):
            raise UserError(f"--arms {context.settings.arms}: none starts from --init: add mae, or leave --init out")
        with context.log.waiting(MEASURING):
            costs = outlay(context, arms, limit)
        spent = from_main(context.accelerator, context.clock.seconds)
        within = HALF_AN_HOUR if elastic and context.accelerator.device.type == "cpu" else None
        made = make_plan(costs, arms, context.seeds(), spent, finetune_key, limit=limit, within=within)
    except UserError:  # everybody's, and nobody leaves before the main process is done
        if not resume:  # what is gone on with stays
            context.on_main(lambda: discard(context.folder.root))
        raise
    except BaseException:  # measuring is waited for, and so interrupted
        if not resume and context.accelerator.is_main_process:
            discard(context.folder.root)
        raise
    context.on_main(lambda: write_whole(file, json.dumps(made.to_json(), indent=1) + "\n"))
    for line in plan_lines(context, made):
        context.log.say(line)
    return context.planned(made)


def complete(context: Context, arms: Sequence[Arm]) -> Run:
    """Baselines on raw pixels, pre-training, probes, fine-tunings, summary and report; what is done is only read."""
    folder, data = context.folder, context.settings.data
    baselines = {per_class: pixels_stage(context, per_class) for per_class in data.label_budgets}
    found = pretrain_arms(context, arms)
    pretrained = {arm.name: file for arm in arms if (file := initial(context, arm))}
    probed = probe_stage(context, pretrained)
    doubts = labels_stage(context, next(iter(pretrained.values()), None))
    finetuned = finetune_arms(context, arms)
    context.clock.enter("report")
    tables, pixels = [], []
    for per_class, runs in finetuned.items():
        tables.append(table(context, arms, per_class, runs, baselines[per_class]))
        test = {name: {"accuracy": v["accuracy"], "std": v["std"]} for name, v in baselines[per_class].items()}
        pixels.append({"labels_per_class": per_class, **test})
    chosen = choice(context, arms, finetuned[data.largest_budget], probed)
    kept = folder.frozen(chosen.arm.name) if chosen.frozen else folder.classifier(chosen.arm.name)
    what = words.network(chosen.arm.to_json(), chosen.frozen)
    context.log.say(f"saved: {what}, {chosen.why}")
    context.on_main(lambda: copy_whole(kept, folder.weights))
    every = [run for runs in finetuned.values() for arm in arms for run in runs[arm.name]]
    read = {name: {reading: values[reading] for reading in ("knn", "linear")} for name, values in probed.items()}
    results = {"pretrain": found, "probe": read, "finetune": tables}
    metric = {name: values["metric"] for name, values in probed.items() if "metric" in values}
    details = {
        "shipped": chosen.arm.name, "frozen": chosen.frozen, "chosen_by": chosen.why, "doubtful_labels": doubts,
        "metric": metric,
        "runs": every, "pixels": pixels,
    }  # fmt: skip
    return _finished(context, arms, results, details, next((initial(context, arm) for arm in arms), None))


def pretrain(
    data: Data = "digits",
    *,
    recipe: str | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    pause_after: str | float | None = None,
    settings: Settings | None = None,
    **overrides: Any,
) -> Run:
    """Pre-train on images, with or without labels: a masked autoencoder, unless `arms` names another objective.

    Args:
        data: a source of images.
        recipe, config, overrides: see `pocketvit.config.resolve`; `settings` takes their place.
        out: run directory; None makes a new one in runs/.
        overwrite: replace a run that is there.
        resume: go on with the run that is there.
        pause_after: when to save and stop, in seconds or as "50m"; counted from the call.

    Raises:
        UserError: bad data, settings or directory.
        Paused: `pause_after` is over; what was done is saved, and `resume` goes on with it.
    """
    data = spec_of(data)
    settings = settings or settings_for(data, recipe, config, overrides)
    arm = arm_of(settings, "pretrain", pretrained=True)
    context = Context.open(
        "pretrain", data, settings,
        out=out, overwrite=overwrite, resume=resume, pause_after=pause_after, need_labels=False,
    )  # fmt: skip
    introduce(context, doubts=False)
    _note_call(context, "pretrain", data)
    _begin(context)
    assert arm.objective
    folder = context.folder
    found = {arm.objective: pretrain_stage(context, arm.objective, folder.weights)}
    return _finished(context, [arm], {"pretrain": found, "probe": {}, "finetune": []}, {}, folder.weights)


def finetune(
    data: Data = "digits",
    *,
    init: Run | str | Path | None = None,
    recipe: str | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    pause_after: str | float | None = None,
    settings: Settings | None = None,
    **overrides: Any,
) -> Run:
    """Train a classifier from weights, or from random init.

    `init` is a run, a weights file, a shipped model's name, or None for random; the latter is a ViT, unless `arms`
    names another network that is trained from scratch.
    With several seeds the test accuracy is their mean. The weights that are saved are the first seed's at the largest
    label budget. Arguments and errors as for `pretrain`; `epochs`, `batch_size` and `lr` mean fine-tuning here.
    """
    data = spec_of(data)
    settings = settings or settings_for(data, recipe, config, overrides, "finetune")
    source = init_of(init)
    arm = arm_of(settings, "finetune", pretrained=source is not None)
    context = Context.open(
        "finetune", data, settings, out=out, overwrite=overwrite, resume=resume, pause_after=pause_after,
        need_labels=True, init=source,
    )  # fmt: skip
    introduce(context, doubts=not resume)
    _note_call(context, "finetune", data)
    _begin(context)
    tables, every = [], []
    for per_class in settings.data.label_budgets:
        runs = [finetune_stage(context, arm, source, per_class, seed) for seed in context.seeds()]
        tables.append(table(context, [arm], per_class, {arm.name: runs}))
        every += runs
    folder = context.folder
    context.on_main(lambda: copy_whole(folder.classifier(arm.name), folder.weights))
    return _finished(context, [arm], {"pretrain": {}, "probe": {}, "finetune": tables}, {"runs": every}, source)


def resume(run: Run | str | Path, *, pause_after: str | float | None = None) -> Run:
    """Go on with a run of `fit`, `pretrain` or `finetune` that was stopped, as it was begun.

    Args:
        run: its directory.
        pause_after: as for `pretrain`.

    Raises:
        UserError: no such run, or its data are not what they were.
    """
    folder = RunFolder(run.path if isinstance(run, Run) else expanded(run))
    try:
        call = folder.begun("repeat the command that began it, with the new place and --resume")
        verb: Callable[..., Run] = {"fit": fit, "pretrain": pretrain, "finetune": finetune}[call.pop("verb")]
    except (OSError, KeyError, TypeError, ValueError):
        raise UserError(f"{folder.root}: no run that can be gone on with: give the directory of one") from None
    begun = {"settings": resolve(config=folder.config), "out": folder.root, **call}
    return verb(begun.pop("data"), **begun, resume=True, pause_after=pause_after)


def _note_call(context: Context, verb: str, data: Spec, **more: Any) -> None:
    """Keep how the run was begun, unless it is kept."""
    place, file = find(data), context.folder.call
    if isinstance(data, Arrays):  # which nobody will have kept
        return
    if context.init is not None:
        more["init"] = str(context.init.resolve())
    call = {"verb": verb, "data": data if place is None else str(place.resolve()), **more}
    context.on_main(lambda: None if file.exists() else write_whole(file, json.dumps(call, indent=1) + "\n"))


def _begin(context: Context) -> None:
    """Nothing can refuse the run any more: the one that it replaces goes, and it is said where it is written."""
    context.on_main(lambda: settle(context.folder.root))
    context.log.say(place_line(context))


def _finished(
    context: Context, arms: Sequence[Arm], results: dict[str, Any], details: dict[str, Any], mae: Path | None
) -> Run:
    """Summary, figures' data and report of a run that is over, and what it took."""
    folder = context.folder
    summary = write_results(context, arms, results, details, mae)

    def write_times() -> None:
        context.clock.tick()
        summary["details"] |= {"seconds": round(context.clock.seconds, 1), "plan": plan_and_truth(context)}
        context.on_main(lambda: write_whole(folder.summary, json.dumps(summary, indent=1) + "\n"))

    write_times()  # for the page, which takes time in its turn
    context.on_main(lambda: write_report(folder.root))
    write_times()
    return Run(folder.root, printable(summary))
