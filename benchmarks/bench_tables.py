"""Tables of what the benchmarks measured: speed and memory, scaling, trials of a recipe's settings."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from common import paired
from writing import Json, between, device, markdown, minutes, plain, when

from pocketvit.pages import words

# Stages of the benchmarks in words, and their contestants with the columns they stand in.
STAGES = {"pretrain": "pre-training", "finetune": "fine-tuning"}
# Arms of trials.
TITLES = {"mae": "from MAE", "contrast": "from MAE + contrast", "random": "from random init", "resnet": "a ResNet"}
RIVALS = {"pocketvit": "PocketViT", "transformers": "transformers", "vit-pytorch": "vit-pytorch"}
SPREAD: dict[str, Callable[[Sequence[float]], float]] = {"median": statistics.median, "min": min, "max": max}
PARTS = ("draw", "augment", "normalise", "forward", "backward", "optimiser")


def throughput_table(evidence: Json) -> str:
    """Speed and peak memory beside the others', and the time of a step's parts; what was measured of them."""
    speeds = []
    for row in evidence.get("step", ()):
        for suffix in ("", " compiled"):
            rated = {name: row["contestants"].get(name + suffix) for name in RIVALS}
            if rated["pocketvit"]:
                speeds.append(_speed_row(f"{STAGES[row['stage']]} step{suffix}", row["precision"], rated))
    for row in evidence.get("epoch", ()):
        for kind, words_ in (("cold", "not decoded before"), ("warm", "decoded before")):
            rated = {**row["contestants"], "pocketvit": row["contestants"][f"pocketvit {kind}"]}
            speeds.append(_speed_row(f"{STAGES[row['stage']]} epoch from files, {words_}", row["precision"], rated))
    memory = []
    for row in evidence.get("memory", ()):
        peaks = [row["contestants"].get(name) for name in RIVALS]
        cells = [f"{peak['peak_mib']:,.0f} ({peak['steps_mib']:,.0f})" if peak else "–" for peak in peaks]
        memory.append([f"{STAGES[row['stage']]} step", row["precision"], *cells])
    profiles, parts = [], [part for part in PARTS if part in evidence.get("profile", [{"seconds": ()}])[0]["seconds"]]
    for row in evidence.get("profile", ()):
        step = row["seconds"]["step"]["median"]
        shares = [f"{100 * row['seconds'][part]['median'] / step:.1f}" for part in parts]
        achieved = f"{_tera(row['flop_per_second'])} of {_tera(row['product']['flop_per_second'])}"
        share = between(row["input_share"], lambda value: f"{100 * value:.1f}")
        profiles.append([STAGES[row["stage"]], row["precision"], f"{1000 * step:.1f}", *shares, share, achieved])
    names = list(RIVALS.values())
    speed_head = [*(f"{name}, images/s" for name in names), *(f"over {name}" for name in names[1:])]
    tables = [
        markdown(["", "precision", *speed_head], speeds),
        markdown(["", "precision", *(f"{name}, MiB" for name in names)], memory),
        markdown(["", "precision", "step, ms", *(f"{p}, %" for p in parts), "input in all, %", "TFLOP/s"], profiles),
    ]
    return "\n\n".join([*(table for table in tables if table), f"<sub>{_bench_origin(evidence)}</sub>"]) + "\n"


def _speed_row(name: str, precision: str, rated: Json) -> list[str]:
    """A row of the first table; its last cells are PocketViT's speed over each other's in the same repeat."""
    speeds = [rated[key]["images_per_second"] if rated.get(key) else None for key in RIVALS]
    own, *others = speeds
    over = []
    for other in others:
        quotients = [a / b for a, b in zip(own["all"], other["all"], strict=True)] if own and other else []
        summary = {kind: function(quotients) for kind, function in SPREAD.items()} if quotients else None
        over.append(between(summary, lambda value: f"{value:.2f}"))
    return [name, precision, *(between(speed, _speed) for speed in speeds), *over]


def labels_table(evidence: Json) -> str:
    """Precision among the first N labels that are doubted, where some were made wrong."""
    head = ["", *(f"first {count}" for count in evidence["precision"]), "all doubted", "planted and doubted"]
    cells = [words.percent(value) for value in evidence["precision"].values()]
    planted = f"{words.percent(evidence['found'])} of {evidence['planted']}"
    rows = [["made wrong, of those doubted", *cells, f"{evidence['doubted']:,}", planted]]
    details = evidence["details"]
    origin = f"`{details['command']}`: {evidence['images']:,} images, {evidence['classes']} classes"
    return plain(f"{markdown(head, rows)}\n\n<sub>{origin}. {device(details)}. {when(details)}.</sub>\n")


def plans_table(evidence: Json) -> str:
    """A row for each set and time limit: what was planned, and what it took."""
    rows = []
    for one in evidence["sets"]:
        over = 100 * (one["seconds"] / one["planned"] - 1)
        cells = [one["name"], f"{one['images']:,}", one["limit"] or "none", minutes(one["planned"])]
        cells += [minutes(one["seconds"]), f"{over:+.0f} %", str(one["seeds"])]
        rows.append([*cells, ", ".join(f"{name} {words.percent(value)}" for name, value in one["arms"].items())])
    head = ["set", "images", "limit", "planned", "took", "off by", "seeds", "test accuracy"]
    details = evidence["details"]
    origin = f"`{details['command']}`. {device(details)}, {details['environment']['cores']} cores. {when(details)}."
    return plain(f"{markdown(head, rows)}\n\n<sub>{origin}</sub>\n")


def scaling_table(evidence: Json) -> str:
    """A row for each case, and how far its images times MACs per second lie from the median of its kind."""
    tables = []
    for name, title in (("images", "train images"), ("tokens", "patches")):
        rows = []
        for measured in evidence.get(name, ()):
            for row in measured["rows"]:
                where = "from the file" if row["streamed"] else "on the device"
                varied = f"{row['images']:,} {where}" if name == "images" else f"{row['patches']}"
                speed = between(row["images_per_second"], _speed)
                rate = words.amount(row["macs_per_second"]["median"])
                cells = [varied, STAGES[row["stage"]], measured["precision"], words.amount(row["macs"]), speed, rate]
                rows.append([*cells, f"{row['over_median']:.2f}"])
        head = [title, "step", "precision", "MACs of an image, forward", "images/s", "product", "over the median"]
        tables.append(markdown(head, rows))
    return plain("\n\n".join([*filter(None, tables), f"<sub>{_bench_origin(evidence)}</sub>"]) + "\n")


def trials_table(evidence: Json) -> str:
    """A row for each trial: accuracies of each arm, and what the training took. Older evidence has no test images."""
    rows, trials = [], evidence["trials"]
    inits = [name for name in TITLES if name in trials[0]]
    tested = [name for name in inits if "test" in trials[0][name]]
    learnt = [name for name in inits if _learnt(trials[0], name)]
    for trial in trials:
        changes = " ".join(f"`{name} {value}`" for name, value in trial["changes"].items()) or "none"
        tuned = [trial[init] for init in inits]
        accuracies = [f"{100 * found['validation_accuracy']:.1f} ± {100 * found['std']:.1f} %" for found in tuned]
        for name in tested:
            test = trial[name]["test"]
            accuracies.append(f"{100 * test['accuracy']:.1f} ± {100 * test['std']:.1f} %")
            accuracies.append(gain_cell(test["over_first_trial"]))
        accuracies += [gain_cell(gain["test"]) for gain in trial.get("gains", ())]
        stages = [(_learnt(trial, name), _frozen(trial[name])) for name in learnt]
        before = [f"{_prepared(found)}{frozen}" for found, frozen in stages]
        took = [f"{found['steps']:,} steps, {minutes(found['seconds'] / len(found['all']))}" for found in tuned]
        rows.append([changes, *accuracies, *before, *took])
    head = [
        "changes",
        *(f"{TITLES[name]}, validation" for name in inits),
        *(f"{TITLES[name]}, {what}" for name in tested for what in ("test", "over the first row")),
        *(f"{_over(gain)}, test" for gain in trials[0].get("gains", ())),
        *("pre-training" if len(learnt) == 1 else f"pre-training, {TITLES[name]}" for name in learnt),
    ]
    head += [f"training {TITLES[name]}" for name in inits]
    details = evidence["details"]
    labels = next(trial[init]["labels"] for trial in trials for init in inits)
    seeds = ", ".join(str(seed) for seed in details["seeds"])
    machine = device(details)
    count = details["environment"]["threads"]
    threads = f"{count} thread{'s' if count > 1 else ''}"
    origin = f"`{details['command']}`. {labels:,} labels; {machine}, {threads}. Seeds {seeds}; {when(details)}."
    return plain(f"{markdown(head, rows)}\n\n<sub>{origin}</sub>\n")


def tested_table(evidence: Json) -> str:
    """A row for each trial: what each arm has on the test images, and the first one's gains over the others there."""
    trials, details = evidence["trials"], evidence["details"]
    inits = [name for name in TITLES if name in trials[0]]
    rows = []
    for trial in trials:
        changes = " ".join(f"`--{name} {value}`" for name, value in trial["changes"].items()) or "the recipe"
        tests = [trial[name]["test"] for name in inits]
        reached = [f"{100 * test['accuracy']:.1f} ± {100 * test['std']:.1f} %" for test in tests]
        rows.append([changes, *reached, *(gain_cell(gain["test"]) for gain in trial["gains"])])
    over = [f"{_over(gain)}, points" for gain in trials[0]["gains"]]
    first = trials[0][inits[0]]
    seeds = ", ".join(str(seed) for seed in details["seeds"])
    origin = (
        f"`{details['command']}`. {first['labels']:,} labels, {first['steps']:,} steps each, "
        f"{first['test']['images']:,} test images; {device(details)}. Seeds {seeds}; "
        f"intervals of 95 %; {when(details)}."
    )
    return plain(f"{markdown(['', *(TITLES[name] for name in inits), *over], rows)}\n\n<sub>{origin}</sub>\n")


def _over(gain: Json) -> str:
    """Which arm's gain over which."""
    return " over ".join(TITLES[gain[key]].removeprefix("from ") for key in ("arm", "over"))


def gain_cell(found: Json | None) -> str:
    """Points, with the interval; a dash for what nothing is compared with."""
    if found is None:
        return "–"
    return f"{words.points(found['mean'])} ({words.points(found['low'])} to {words.points(found['high'])})"


def _frozen(found: Json) -> str:
    """What an arm's frozen encoder reached, with the labels of its fine-tuning; nothing in older evidence."""
    if "probe" not in found:
        return ""
    knn, linear = (words.percent(found["probe"][name]) for name in ("knn", "linear"))
    return f"; frozen: kNN {knn}, linear {linear}"


def _prepared(found: Json) -> str:
    """How an arm was pre-trained, or which weights it has instead."""
    return f"`{found['init']}`" if "init" in found else f"{found['epochs']} epochs, {minutes(found['seconds'])}"


def _learnt(trial: Json, init: str) -> Json:
    """How an arm of a trial was pre-trained; empty where it was not. Older evidence has MAE's beside the arms."""
    found: Json = trial[init].get("pretrain") or (trial.get("pretrain") if init == "mae" else None) or {}
    return found


def splits_table(evidence: Json) -> str:
    """A row for each arm in each form and each baseline: mean over splits, and what the first row has more.

    Of other forms than the recipe's, also what their own first row has more, as labels alone beside labels alone.
    """
    rows, details = [], evidence["details"]
    first: dict[str, list[float]] = {}
    for one in evidence["methods"]:
        changes = " ".join(f"`--{name} {value}`" for name, value in one["changes"].items())
        took = f"{one['seconds']:.1f} s" if one["seconds"] else "–"
        reached = f"{100 * one['accuracy']:.1f} ± {100 * one['std']:.1f} %"
        title = words.method(one["title"])
        own = first.setdefault(changes, one["all"])
        alike = gain_cell(paired(own, one["all"])) if changes and own is not one["all"] else ""
        rows.append([f"{title}{', ' if changes else ''}{changes}", reached, gain_cell(one["gain"]), alike, took])
    head = ["", "test accuracy", "the first row over it, points", "its own form's first over it", "a training"]
    splits, seeds = (", ".join(map(str, some)) for some in (details["settings"]["splits"], details["seeds"]))
    origin = (
        f"`{details['command']}`. {evidence['labels']:,} labels; splits {splits}, seeds {seeds} on each: mean ± "
        "standard deviation over splits, intervals of 95 % of differences paired by split. "
        f"{device(details)}; {when(details)}."
    )
    return plain(f"{markdown(head, rows)}\n\n<sub>{origin}</sub>\n")


def equal_time_table(evidence: Json) -> str:
    """A row for each form and length: its accuracy on validation images, and its gain over the first form."""
    rows = []
    for form in evidence["forms"]:
        changes = " ".join(f"`{name} {value}`" for name, value in form["changes"].items()) or "as the recipe is"
        for length in form["lengths"]:
            gain = length["gain"]
            told = "–" if gain is None else words.points(gain["mean"])
            span = "–" if gain is None else f"{words.points(gain['low'])} to {words.points(gain['high'])}"
            spent = statistics.fmean(length["cpu_seconds"])
            reached = f"{100 * length['validation_accuracy']:.1f} ± {100 * length['std']:.1f} %"
            speed = f"{form['images_per_second']:,.0f}"
            asked = [f"{length['seconds']} s", f"{spent:.0f} s", f"{length['steps']:,}"]
            rows.append([changes, *asked, speed, reached, told, span])
    details = evidence["details"]
    head = ["form", "CPU time asked", "taken", "steps", "images/s", "validation accuracy", "gain, points", "95 %"]
    seeds = ", ".join(str(seed) for seed in details["seeds"])
    origin = (
        f"`{details['command']}`. {evidence['labels']:,} labels, {evidence['images']:,} validation images; "
        f"{device(details)}, one thread. Seeds {seeds}; {when(details)}."
    )
    return plain(f"{markdown(head, rows)}\n\n<sub>{origin}</sub>\n")


def _speed(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _tera(summary: Json) -> str:
    return f"{summary['median'] / 1e12:.3g}"


def _bench_origin(evidence: Json) -> str:
    details = evidence["details"]
    here, settings, versions = details["environment"], details["settings"], details["versions"]
    machine = device(details)
    libraries = (f"{name} {versions[name]}" for name in ("torch", "transformers", "vit-pytorch") if name in versions)
    sentences = [
        f"`{details['command']}`",
        f"{machine}, {here['cores']} cores, {here['threads']} threads; {', '.join(libraries)}",
        f"Sizes `{settings['sizes']}`, batch {settings['batch_size']}; median (least–most) of {settings['repeats']} "
        f"interleaved repeats of {settings['steps']} steps",
        when(details),
    ]
    return ". ".join(sentences) + "."
