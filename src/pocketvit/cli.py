"""The command line: one verb, one function. Settings come from a recipe, then --config, then flags."""

from __future__ import annotations

import csv
import difflib
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pocketvit.arguments import (
    ARGUMENTS,
    OUT,
    PLAIN,
    PURPOSES,
    front_page,
    given_to,
    settings_given,
    typed_at,
)
from pocketvit.completion import complete, completion_script
from pocketvit.errors import ImageWarning, UserError, of_place
from pocketvit.signals import unwinding_signals

Verb = Callable[[list[str]], int]
RESUMED = ("fit", "pretrain", "finetune")  # verbs that go on from what they have written


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0, 2 after a user's mistake, 128 + signal after an interruption."""
    args = list(sys.argv[1:] if argv is None else argv)
    if argv is None and "_ARGCOMPLETE" in os.environ:
        complete(VERBS)
    for stream in (sys.stdout, sys.stderr):
        # Names that a console cannot show are no reason to lose what was to be said.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with unwinding_signals():
            return _verb(args)(args[1:])
    except UserError as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        hint = ": mend that, then repeat the command with --resume" if args[0] in RESUMED else ""
        return _fail(of_place(error, hint=hint), 2)


def _verb(args: list[str]) -> Verb:
    """The first word's; of none, one that prints the front page."""
    if not args or args[0] in ("-h", "--help", "--help-all"):
        return lambda _: print(front_page(VERBS, PURPOSES)) or 0
    if args[0] == "--version":
        from importlib.metadata import version

        return lambda _: print(f"pocketvit {version('pocketvit')}") or 0
    if args[0] in VERBS:
        return VERBS[args[0]]
    if args[0] == "help":
        return lambda more: _verb(more)(["--help"])
    hint = (
        f"did you mean {close[0]}?"
        if (close := difflib.get_close_matches(args[0], (*VERBS, "--version", "--help"), n=1))
        else ""
    )
    hint = f"for images that lie there, pocketvit fit {args[0]}" if os.path.exists(args[0]) else hint
    raise UserError(f"no verb '{args[0]}': {hint or 'use one of ' + ', '.join(VERBS)}")


def fit(args: list[str]) -> int:
    """images in; a tested classifier and a report out"""
    began = typed_at()
    given, settings = settings_given("fit", str(fit.__doc__), args, ARGUMENTS["fit"])
    more = {"init": given["init"], "time_limit": given["time_limit"], "elastic": not given["lengths_given"]}
    if not given["plan"]:
        return _train("fit", given, settings, **more, began=began)
    from pocketvit.verbs.train import plan

    made = plan(given["source"], settings=settings, **more, began=began)
    return _show(given, made.to_json(), "planned, and nothing trained: leave out --plan for that")


def pretrain(args: list[str]) -> int:
    """masked-autoencoder pre-training alone; labels are not needed"""
    return _train("pretrain", *settings_given("pretrain", str(pretrain.__doc__), args, ARGUMENTS["pretrain"]))


def finetune(args: list[str]) -> int:
    """train a classifier from pre-trained weights (--init) or from random"""
    given, settings = settings_given("finetune", str(finetune.__doc__), args, ARGUMENTS["finetune"])
    return _train("finetune", given, settings, init=given["init"])


def resume(args: list[str]) -> int:
    """go on with a run that was stopped, by its plan"""
    given = given_to("resume", str(resume.__doc__), args)
    return _trained(given, "resume", given["run"], pause_after=given["pause_after"])


def probe(args: list[str]) -> int:
    """kNN and linear probe of a model's frozen encoder, and of random init"""
    given, settings = settings_given("probe", str(probe.__doc__), args, ARGUMENTS["probe"])
    from pocketvit.verbs.use import probe as verb

    result = verb(given["source"], model=given["weights"], settings=settings)
    lines = [
        f"{n}: kNN {_percent(result[n]['knn'])}, linear {_percent(result[n]['linear'])}" for n in ("model", "random")
    ]
    return _show(given, result, "\n".join([*lines, *result["notes"]]))


def evaluate(args: list[str]) -> int:
    """accuracy, per-class accuracy, confusion matrix and calibration error on the test images"""
    given, settings = settings_given("evaluate", str(evaluate.__doc__), args, ARGUMENTS["evaluate"])
    from pocketvit.verbs.use import evaluate as verb

    result = verb(given["source"], model=given["weights"], settings=settings)
    tested = f"{_percent(result['accuracy'])} on {result['test']} images"
    lines = [f"accuracy {tested}, calibration error {result['ece']:.4f}", *(f"  {note}" for note in result["notes"])]
    lines += [f"  {name}: {'no images' if v is None else _percent(v)}" for name, v in result["per_class"].items()]
    return _show(given, result, "\n".join(lines))


def predict(args: list[str]) -> int:
    """classes and probabilities of image files or of a folder, as CSV or JSON"""
    given = given_to("predict", str(predict.__doc__), args)
    from pocketvit.verbs.predict import predictions

    options = {name: given[name] for name in PLAIN["predict"][-1]}
    rows: list[dict[str, Any]] = []
    told = csv.writer(sys.stdout, lineterminator="\n")
    with _said_warnings():
        for row in predictions(given["paths"], **options, progress=True):
            if not rows and not given["json"]:
                told.writerow(["file", "rank", "class", "probability"])
            rows.append(row)
            if "error" in row:
                print(f"pocketvit: {row['file']}: cannot be decoded ({row['error']})", file=sys.stderr)
            if not given["json"]:
                told.writerows(
                    [row["file"], rank, guess["class"], guess["probability"]]
                    for rank, guess in enumerate(row["top"], start=1)
                )
    if given["json"]:
        print(json.dumps(rows))
    return 0


def export(args: list[str]) -> int:
    """a file that runs elsewhere, as ONNX or one HTML page, verified on the test images"""
    given = given_to("export", str(export.__doc__), args)
    from pocketvit.verbs.export import export as verb

    found = verb(given["model"], **{name: given[name] for name in PLAIN["export"][-1]})
    told = f"exported, not verified here: {found.get('reason')}"
    if found["verified"]:
        exported, own, same = (_percent(found[name]) for name in ("exported_accuracy", "accuracy", "agreement"))
        told = f"{exported} on {found['images']} test images, {own} in PyTorch, the same class for {same}"
    return _show(given, found, f"wrote {found['file']}, {found['bytes'] / 1e6:.2f} MB: {told}")


def bench(args: list[str]) -> int:
    """every runtime that is installed: speed, memory, size and accuracy, in one table"""
    given = given_to("bench", str(bench.__doc__), args)
    from pocketvit.pages.speed import bench_text
    from pocketvit.verbs.bench import bench as verb

    found = verb(*given["models"], **{name: given[name] for name in PLAIN["bench"][-1]})
    return _show(given, found, bench_text(found))


def embed(args: list[str]) -> int:
    """features of image files or of a folder, with their names, as Parquet or CSV"""
    given = given_to("embed", str(embed.__doc__), args)
    from pocketvit.verbs.predict import embed as verb

    if given["json"] and given["out"] == "-":
        raise UserError("--json: features on standard output are CSV: add --out FILE, in .parquet or .csv")
    options = {name: given[name] for name in PLAIN["embed"][-1]}
    with _said_warnings():
        count = verb(given["paths"], **options, progress=True)
    return 0 if given["out"] == "-" else _show(given, {"file": given["out"], "images": count}, f"wrote {given['out']}")


@contextmanager
def _said_warnings() -> Iterator[None]:
    """Those of images, a line each on stderr."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ImageWarning)
        yield
    for warning in caught:
        print(f"pocketvit: {warning.message}", file=sys.stderr)


def reconstruct(args: list[str]) -> int:
    """PNG of held-out images: input, what the encoder sees, reconstruction"""
    given, settings = settings_given("reconstruct", str(reconstruct.__doc__), args, ARGUMENTS["reconstruct"])
    from pocketvit.verbs.use import reconstruct as verb

    file = verb(given["source"], model=given["weights"], out=given["out"], count=given["count"], settings=settings)
    return _show(given, {"file": str(file)}, f"wrote {file}")


def report(args: list[str]) -> int:
    """write report.html of a run again"""
    given = given_to("report", str(report.__doc__), args)
    from pocketvit.verbs.use import report as verb

    file = verb(given["run"])
    return _show(given, {"report": str(file)}, f"wrote {file}")


def budget(args: list[str]) -> int:
    """parameters, multiply-accumulates and size of a network, and what small devices would take"""
    given, settings = settings_given("budget", str(budget.__doc__), args, ARGUMENTS["budget"])
    from pocketvit.pages.speed import budget_text
    from pocketvit.verbs.use import budget as verb

    result = verb(channels=given["channels"], classes=given["classes"], settings=settings)
    return _show(given, result, budget_text(result))


def completion(args: list[str]) -> int:
    """print what bash, zsh or fish reads to complete: pocketvit completion bash"""
    print(completion_script(given_to("completion", str(completion.__doc__), args)["shell"]))
    return 0


EVERY = (
    fit, pretrain, finetune, resume, evaluate, probe, reconstruct, report, predict, embed, export, bench, budget,
    completion,
)  # fmt: skip
VERBS: dict[str, Verb] = {verb.__name__: verb for verb in EVERY}


def _train(verb: str, given: Any, settings: Any, **more: Any) -> int:
    options = {name: given[name] for name in OUT} | more
    return _trained(given, verb, given["source"], settings=settings, **options)


def _trained(given: Any, verb: str, *args: Any, **options: Any) -> int:
    from accelerate import PartialState

    from pocketvit.training.stops import Interrupted, NonFiniteLoss, Paused
    from pocketvit.verbs import train

    try:
        run = getattr(train, verb)(*args, **options)
    except Interrupted as stop:
        return _fail(stop, 128 + stop.signum)
    except NonFiniteLoss as error:
        return _fail(error, 1)
    except Paused as stop:
        return _show(given, {"unfinished": str(stop)}, str(stop)) if PartialState().is_main_process else 0
    # Of several processes one speaks.
    if not PartialState().is_main_process:
        return 0
    if given["json"]:
        print(json.dumps(run.summary))
        return 0
    from rich.console import Console

    from pocketvit.pages.terminal import ending
    from pocketvit.run.summary import read_summary

    Console(highlight=False).print(ending(read_summary(run.path), str(run.path)), soft_wrap=True)
    return 0


def _show(given: Any, result: Any, text: str) -> int:
    print(json.dumps(result) if given["json"] else text)
    return 0


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _fail(error: Exception, status: int) -> int:
    print(f"pocketvit: {' '.join(str(error).split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
