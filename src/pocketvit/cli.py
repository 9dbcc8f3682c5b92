"""The command line: one verb, one function. Settings come from a recipe, then --config, then flags."""

from __future__ import annotations

import csv
import errno
import io
import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

from pocketvit.config import default_recipe, flat_names, model_path, recipe_path, run_config
from pocketvit.config.parsing import boolean_settings, parse, settings_of, settings_parser
from pocketvit.errors import UnlikeTraining, UserError

DATA_HELP = "digits, cifar10, cifar100; a folder of images or class folders, with train/ or without; Parquet"
Verb = Callable[[list[str]], int]


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0, 2 after a user's mistake, 128 + signal after an interruption."""
    args = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        # Names that a console cannot show are no reason to lose what was to be said.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if not args or args[0] in ("-h", "--help"):
            print(_usage())
            return 0
        verb = VERBS.get(args[0])
        if verb is None:
            raise UserError(f"no verb '{args[0]}': use one of {', '.join(VERBS)}")
        return verb(args[1:])
    except UserError as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        # A full disk or a directory that became read-only: whole files are kept, and the run can go on from them.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG):
            raise
        return _fail(UserError(f"{error.filename or 'output'}: cannot be written ({error.strerror}); then --resume"), 2)


def fit(args: list[str]) -> int:
    """images in; pre-train, probe, fine-tune from MAE and from random init, test, report"""
    return _train("fit", args)


def pretrain(args: list[str]) -> int:
    """masked-autoencoder pre-training alone; labels are not needed"""
    return _train("pretrain", args)


def finetune(args: list[str]) -> int:
    """train a classifier from pre-trained weights (--init) or from random"""
    return _train("finetune", args, init=(str, None, f"{MODEL[2]} to start from; default: random"))


def probe(args: list[str]) -> int:
    """kNN and linear probe of a model's frozen encoder, and of random init"""
    given, settings = _settings("probe", args, source=DATA, weights=WEIGHTS)
    from pocketvit.verbs.use import probe as verb

    result = verb(given["source"], model=given["weights"], settings=settings)
    lines = [
        f"{n}: kNN {_percent(result[n]['knn'])}, linear {_percent(result[n]['linear'])}" for n in ("model", "random")
    ]
    return _show(given, result, "\n".join(lines))


def evaluate(args: list[str]) -> int:
    """accuracy, per-class accuracy, confusion matrix and calibration error on the test images"""
    given, settings = _settings("evaluate", args, source=DATA, weights=WEIGHTS)
    from pocketvit.verbs.use import evaluate as verb

    result = verb(given["source"], model=given["weights"], settings=settings)
    lines = [
        f"accuracy {_percent(result['accuracy'])} on {result['test']} images, calibration error {result['ece']:.4f}"
    ]
    lines += [f"  {note}" for note in result["notes"]]
    lines += [f"  {name}: {'no images' if v is None else _percent(v)}" for name, v in result["per_class"].items()]
    return _show(given, result, "\n".join(lines))


def predict(args: list[str]) -> int:
    """classes and probabilities of image files or of a folder, as CSV or JSON"""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="pocketvit predict", description=predict.__doc__, exit_on_error=False)
    parser.add_argument("paths", nargs="+", help="image files and folders of images")
    _add(parser, {"model": MODEL, "top": (int, 3, "classes to list for each image")})
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--skip_bad", action="store_true", help="go on where a file cannot be decoded")
    given = parse(parser, _underscored(args))
    from pocketvit.verbs.predict import predict as verb

    options = {name: given[name] for name in ("model", "top", "device", "skip_bad")}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UnlikeTraining)
        result = verb(given["paths"], **options)
    for warning in caught:
        print(f"pocketvit: {warning.message}", file=sys.stderr)
    for row in result:
        if "error" in row:
            print(f"pocketvit: {row['file']}: cannot be decoded ({row['error']})", file=sys.stderr)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file", "rank", "class", "probability"])
    for row in result:
        for rank, guess in enumerate(row["top"], start=1):
            writer.writerow([row["file"], rank, guess["class"], guess["probability"]])
    return _show(given, result, table.getvalue().rstrip("\n"))


def reconstruct(args: list[str]) -> int:
    """PNG of held-out images: input, what the encoder sees, reconstruction"""
    out, count = (str, None, "PNG file to write; default: reconstruction.png in the run"), (int, 8, "images")
    given, settings = _settings("reconstruct", args, source=DATA, weights=WEIGHTS, out=out, count=count)
    from pocketvit.verbs.use import reconstruct as verb

    file = verb(given["source"], model=given["weights"], out=given["out"], count=given["count"], settings=settings)
    return _show(given, {"file": str(file)}, f"wrote {file}")


def report(args: list[str]) -> int:
    """write report.html of a run again"""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="pocketvit report", description=report.__doc__, exit_on_error=False)
    parser.add_argument("run", help="run directory")
    _add(parser, {})
    given = parse(parser, _underscored(args))
    from pocketvit.verbs.use import report as verb

    file = verb(given["run"])
    return _show(given, {"report": str(file)}, f"wrote {file}")


def budget(args: list[str]) -> int:
    """parameters, multiply-accumulates and size of a network"""
    channels, classes = (int, 3, "channels of an image"), (int, 10, "outputs of the head")
    given, settings = _settings("budget", args, channels=channels, classes=classes)
    from pocketvit.verbs.use import budget as verb

    result = verb(channels=given["channels"], classes=given["classes"], settings=settings)
    text = [
        f"{name}: {value:,}" if isinstance(value, (int, float)) else f"{name}: {value}"
        for name, value in result.items()
    ]
    return _show(given, result, "\n".join(text))


VERBS: dict[str, Verb] = {
    f.__name__: f for f in (fit, pretrain, finetune, probe, evaluate, predict, reconstruct, report, budget)
}
DATA = (str, "digits", DATA_HELP)
MODEL = (str, ..., "run directory, weights file or name of a shipped model")
# Among settings, where "model" is the network's sizes, --model stands for this.
WEIGHTS = (str, None, f"{MODEL[2]}; --model for short")
OUT = {
    "out": (str, None, "run directory; default: a new one in runs/"),
    "overwrite": (bool, False, "replace the run that is in --out"),
    "resume": (bool, False, "go on with the run that is in --out"),
    "pause_after": (str, None, "save and stop after 90s, 50m or 1.5h; --resume goes on"),
}


def _train(verb: str, args: list[str], **more: Any) -> int:
    given, settings = _settings(verb, args, source=DATA, **more, **OUT)
    from accelerate import PartialState

    import pocketvit
    from pocketvit.training.stops import Interrupted, NonFiniteLoss, Paused

    options = {name: given[name] for name in (*more, *OUT)}
    try:
        run = getattr(pocketvit, verb)(given["source"], settings=settings, **options)
        result, text = run.summary, f"report: {run.summary['files']['report']}"
    except Interrupted as stop:
        return _fail(stop, 128 + stop.signum)
    except NonFiniteLoss as error:
        return _fail(error, 1)
    except Paused as stop:
        result, text = {"unfinished": str(stop)}, str(stop)
    # Of several processes one speaks.
    return _show(given, result, text) if PartialState().is_main_process else 0


def _settings(verb: str, args: list[str], **arguments: Any) -> tuple[Any, Any]:
    """Parsed arguments of a verb, and the `Settings` among them. A recipe is the first of the --config files."""
    stage = "finetune" if verb == "finetune" else "pretrain"
    flat = flat_names(stage) | ({"model": "weights"} if "weights" in arguments else {})
    lines = [f"  --{name.replace('_', '-'):<18} is short for --{dotted}" for name, dotted in flat.items()]
    parser = settings_parser(
        prog=f"pocketvit {verb}",
        description=VERBS[verb].__doc__,
        epilog="What people change often has a flat name: " + "; ".join(" ".join(line.split()) for line in lines),
    )
    _add(parser, arguments)
    words = _underscored(args, flat)
    named = next((w.split("=", 1)[1] for w in reversed(words) if w.startswith("--recipe=")), None)
    if named is None and "source" in arguments and verb in ("fit", "pretrain", "finetune"):
        from_data = [w for w in words if not w.startswith("-")]
        named = default_recipe(*from_data[:1] or ["digits"])
        words.append(f"--recipe={named}")
    used = next((w.split("=", 1)[1] for w in reversed(words) if w.startswith("--weights=")), None)
    base = recipe_path(named) if named else run_config(model_path(used)) if used else None
    given = parse(parser, [f"--config={base}", *words] if base else words)
    if "weights" in arguments and not given["weights"]:
        raise UserError(f"--model: {verb} needs a {MODEL[2]}")
    return given, settings_of(parser, given)


def _add(parser: Any, arguments: dict[str, Any]) -> None:
    """Arguments as name: (type, default, help); `source` is positional, ... is required."""
    for name, (kind, default, text) in arguments.items():
        if name == "source":
            parser.add_argument("source", metavar="DATA", nargs="?", default=default, help=text)
        elif kind is bool:
            parser.add_argument(f"--{name}", action="store_true", help=text)
        elif default is ...:
            parser.add_argument(f"--{name}", type=kind, required=True, help=text)
        else:
            parser.add_argument(
                f"--{name}", type=kind if default is not None else kind | None, default=default, help=text
            )
    parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else, on stdout")


def _underscored(args: list[str], flat: dict[str, str] | None = None) -> list[str]:
    """Flags with underscores and dotted names, each joined to its value: `--mask-ratio 0.5` and the like."""
    words: list[str] = []
    for arg in args:
        if arg.startswith("--") and len(arg) > 2:
            name, equals, value = arg[2:].partition("=")
            name = name.replace("-", "_")
            name = (flat or {}).get(name, name)
            words.append(f"--{name}{equals}{value}")
        elif (
            words and flat is not None and words[-1].startswith("--") and "=" not in words[-1] and words[-1] not in BARE
        ):
            words[-1] += f"={arg}"
        else:
            words.append(arg)
    return [word + "=true" if flat is not None and word in boolean_settings() else word for word in words]


BARE = (
    *("--json", "--help", "--print_config"),
    *(f"--{name}" for name, (kind, *_) in OUT.items() if kind is bool),
    *boolean_settings(),
)


def _show(given: Any, result: Any, text: str) -> int:
    print(json.dumps(result) if given["json"] else text)
    return 0


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _fail(error: Exception, status: int) -> int:
    print(f"pocketvit: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _usage() -> str:
    verbs = "\n".join(f"  {name:<12} {verb.__doc__}" for name, verb in VERBS.items())
    return (
        "usage: pocketvit VERB ...\n\nFrom a folder of small images to a small, fast image classifier.\n\n"
        f"{verbs}\n\npocketvit VERB --help lists a verb's arguments; try: pocketvit fit digits"
    )


if __name__ == "__main__":
    sys.exit(main())
