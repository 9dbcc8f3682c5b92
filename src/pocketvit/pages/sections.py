"""What each section of the page needs; a section whose data the run does not have is None, and left out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pocketvit.pages import caveats, figures, words
from pocketvit.pages.judgement import Arrays, Context, class_name, doubts, judgement, mistakes


def page_context(summary: Context, metrics: Sequence[Context], arrays: Arrays, settings: str | None) -> Context:
    """All that the template shows, from a run's summary, readings, arrays and settings."""
    details = summary.get("details") or {}
    dataset = summary.get("dataset") or {}
    classes = [str(name) for name in dataset.get("classes") or []]
    fraction = details.get("label_fraction")
    entries, arms = arranged(summary.get("finetune")), list(words.arms(summary).values())
    results = [_result(entry, arms, details.get("pixels"), fraction) for entry in entries]
    _mark_saved(summary, entries, results)
    return {
        "arms": arms,
        "dataset": dataset,
        "class_count": len(classes),
        "headline": words.headline(summary, entries, fraction),
        "standfirst": caveats.first(summary, entries, fraction),
        "model": summary.get("model") or {},
        "saved": _saved(summary),
        "sound": caveats.soundness(summary, entries) if entries else [],
        "times": _times(details.get("plan")),
        "unused": caveats.unused(summary),
        "results": results,
        "gained": any(result["gain"] is not None for result in results),
        "probe": _probe(summary.get("probe"), arms),
        "metric": _metric(details.get("metric") or {}, arms, fraction),
        "samples": _samples(arrays, classes),
        "pretrain": _pretrain(summary.get("pretrain") or {}, arms, metrics),
        "finetune_curves": _finetune_curves(entries, arms, metrics, fraction),
        "gallery": _gallery(arrays),
        "evaluation": judgement(details.get("evaluation"), classes),
        "mistakes": mistakes(arrays, classes),
        "doubts": doubts(arrays, classes),
        "doubtful": details.get("doubtful_labels"),
        "notes": details.get("notes") or [],
        "settings": settings,
        "environment": _environment(details, summary.get("files")),
    }


def leaderboard(summary: Context, entries: Sequence[Context]) -> list[Context]:
    """Every method, the best at the largest label budget first: its accuracy and spread at each, or None.

    Rows have "name", "kind" (an arm's name, "probe", "pixels" or "chance"), "accuracies", "spreads" and "saved".
    """
    details, arms = summary.get("details") or {}, list(words.arms(summary).values())
    fraction = details.get("label_fraction")
    results = [_result(entry, arms, details.get("pixels"), fraction) for entry in entries]
    rows: dict[str, Context] = {}
    for place, result in enumerate(results):
        for row in result["rows"]:
            saved = row["kind"] == details.get("shipped") and not details.get("frozen")
            empty = {"name": row["name"], "kind": row["kind"], "saved": saved}
            known = rows.setdefault(row["name"], {**empty, **_blank(len(results))})
            known["accuracies"][place], known["spreads"][place] = row["accuracy"], row["spread"]
    for probe in _probe(summary.get("probe"), arms):
        for reading, title in (("linear", "linear probe"), ("knn", "kNN")):
            name = f"{probe['name']}, frozen: {title}"
            saved = bool(details.get("frozen")) and (probe["kind"], reading) == (details.get("shipped"), "linear")
            rows[name] = {"name": name, "kind": "probe", "saved": saved, **_blank(max(1, len(results)))}
            rows[name]["accuracies"][-1] = words.number(probe[reading])
            read = (details.get("metric") or {}).get(probe["kind"]) or {"budgets": []}
            known = {entry["labels_per_class"]: entry[reading] for entry in read["budgets"]}
            for place, entry in enumerate(entries):
                if entry.get("labels_per_class") in known:
                    rows[name]["accuracies"][place] = known[entry["labels_per_class"]]
    if rows and (chance := words.chance(details.get("evaluation"))) is not None:
        blank = _blank(len(results)) | {"accuracies": [chance] * len(results)}
        rows["chance"] = {"name": "the most frequent class, always", "kind": "chance", "saved": False, **blank}
    return sorted(rows.values(), key=lambda row: -(row["accuracies"][-1] or 0.0))


def _mark_saved(summary: Context, entries: Sequence[Context], results: Sequence[Context]) -> None:
    """Say which row of the largest budget is what was saved, and put it there where it is a frozen encoder's."""
    for row in (row for row in leaderboard(summary, entries) if results and row["saved"]):
        same = next((known for known in results[-1]["rows"] if known["name"] == row["name"]), None)
        if same is None and row["accuracies"][-1] is not None:
            kind = str((summary.get("details") or {}).get("shipped"))
            same = _row(row["name"], kind, {"accuracy": row["accuracies"][-1]})
            results[-1]["rows"].insert(0, same)
        if same is not None:
            same["saved"] = True


def _blank(results: int) -> Context:
    return {"accuracies": [None] * results, "spreads": [None] * results}


def arranged(finetune: Any) -> list[Context]:
    """Fine-tune results, fewest labels first."""
    return sorted(finetune or [], key=lambda entry: words.number(entry.get("labels_per_class")) or float("inf"))


def _result(entry: Context, arms: Sequence[words.Json], pixels: Any, fraction: Any) -> Context:
    """One label budget: a row for each method, and the gain of the first arm over the other."""
    rows = []
    for arm in arms:
        if words.accuracy(found := entry["arms"].get(arm["name"])) is not None:
            how = "fine-tuned" if arm["pretrained"] else "trained alike"
            how = how if words.is_vit(arm) else "trained from scratch"
            name = f"{_capital(arm['title'])}, {how}"
            rows.append(_row(name, arm["name"], found))
            if "over_views" in found:
                told = found["over_views"] | {"seeds": found.get("seeds")}
                rows.append(_row(f"{name}, mean over symmetries", "views", told))
    strongest = entry.get("pixels") or {}
    labels = entry.get("labels_per_class")
    tested: Context = next((row for row in pixels or [] if row.get("labels_per_class") == labels), {})
    baselines = {name: result for name, result in tested.items() if words.accuracy(result) is not None}
    if words.accuracy(strongest) is not None:
        baselines.setdefault(str(strongest.get("name", "classifier")), strongest)
    for name, result in sorted(baselines.items(), key=lambda item: -(words.accuracy(item[1]) or 0.0)):
        # With all labels every seed fits the same: no spread is known.
        known = result if words.number(result.get("std")) else {**result, "std": None}
        rows.append(_row(f"{words.method(name)} on raw pixels", "pixels", known))
    return {
        "budget": words.budget(entry, fraction),
        "rows": rows,
        "arms": entry["arms"],
        "strongest": strongest if words.accuracy(strongest) is not None else None,
        "gain": words.gain(entry),
    }


def _saved(summary: Context) -> str | None:
    """Which network was saved and why, in a sentence."""
    details = summary.get("details") or {}
    arm = words.arms(summary).get(str(details.get("shipped")))
    if arm is None:
        return None
    what = _capital(words.network(arm, bool(details.get("frozen"))))
    return f"{what} was saved, {details.get('chosen_by')}."


def _times(plan: Any) -> list[Context]:
    """Seconds of each stage, planned and taken, after those before the first."""
    if not plan or not plan.get("stages"):
        return []
    opening = {"title": "images decoded, speeds measured", "planned": None, "took": plan.get("opening")}
    return [opening, *plan["stages"]]


def _row(name: str, kind: str, result: Context) -> Context:
    seeds = result.get("seeds")
    spread = None if seeds is not None and len(seeds) < 2 else words.number(result.get("std"))
    return {
        "name": name,
        "kind": kind,
        "accuracy": words.accuracy(result),
        "spread": spread,
        "seeds": len(seeds) if seeds else None,
        "saved": False,
    }


def _capital(title: str) -> str:
    return title[:1].upper() + title[1:]


def _probe(probe: Any, arms: Sequence[words.Json]) -> list[Context]:
    rows = []
    for arm in arms:
        result = (probe or {}).get(arm["name"])
        if result:
            name = _capital(arm["title"])
            rows.append({"name": name, "kind": arm["name"], "knn": result.get("knn"), "linear": result.get("linear")})
    return rows


def _metric(metric: words.Json, arms: Sequence[words.Json], fraction: Any) -> list[Context]:
    """Readings of each frozen encoder at each label budget, fewest labels first."""
    rows = [
        {"name": _capital(arm["title"]), "kind": arm["name"], "budget": words.budget(entry, fraction), **entry,
         "rank": f"{found['rank']:.0f} of {found['dimensions']}"}
        for arm in arms if (found := metric.get(arm["name"])) for entry in found["budgets"]
    ]  # fmt: skip
    return sorted(rows, key=lambda row: words.number(row.get("labels_per_class")) or float("inf"))


def _curve(records: Sequence[Context], x: str, y: str) -> dict[float, float]:
    """Finite (x, y) pairs; a resumed run repeats a few steps, and the later line holds."""
    pairs = ((words.number(record.get(x)), words.number(record.get(y))) for record in records)
    return {at: value for at, value in pairs if at is not None and value is not None}


def _pretrain(pretrain: Context, arms: Sequence[words.Json], metrics: Sequence[Context]) -> list[Context]:
    """What each objective came to, with its curves; an unfinished one has curves alone."""
    told = []
    every = [record for record in metrics if record.get("stage") == "pretrain"]
    titles = {arm["name"]: arm["title"] for arm in arms}
    for name in dict.fromkeys([*pretrain, *(record.get("objective", "mae") for record in every)]):
        records = [record for record in every if record.get("objective", "mae") == name]
        train, heldout, knn = (_curve(records, "epoch", key) for key in ("train_loss", "heldout_loss", "knn"))
        facts = pretrain.get(name) or {}
        told.append(
            {
                "title": titles.get(name, name),
                "facts": facts,
                "loss": figures.loss_curves(name, train, heldout) if max(len(train), len(heldout)) > 1 else None,
                "knn": figures.knn_curve(name, knn) if len(knn) > 1 else None,
                "reading": _reading(facts),
            }
        )
    return told


def _reading(pretrain: Context) -> list[str]:
    said = [f"Verdict on the held-out loss: {pretrain['verdict']}."] if pretrain.get("verdict") else []
    train, heldout = words.number(pretrain.get("train_loss")), words.number(pretrain.get("heldout_loss"))
    if train and heldout:
        gap = 100 * (heldout / train - 1)
        side = "above" if gap >= 0 else "below"
        said.append(f"It ends at {heldout:.4g}, {abs(gap):.0f}{words.NBSP}% {side} the training loss of {train:.4g}.")
    return said


def _finetune_curves(
    entries: Sequence[Context], arms: Sequence[words.Json], metrics: Sequence[Context], fraction: Any
) -> list[Context]:
    records = [record for record in metrics if record.get("stage") == "finetune"]
    budgets = {entry.get("labels_per_class") for entry in entries} | {row.get("labels_per_class") for row in records}
    drawn = []
    for labels in sorted(budgets, key=lambda value: words.number(value) or float("inf")):
        curves = []
        for arm in arms:
            of_arm = [r for r in records if r.get("init") == arm["name"] and r.get("labels_per_class") == labels]
            seeds = dict.fromkeys(row.get("seed") for row in of_arm)
            of_seeds = (_curve([r for r in of_arm if r.get("seed") == seed], "step", "val_accuracy") for seed in seeds)
            curves.append(figures.Bundle(arm["title"], arm["colour"], [curve for curve in of_seeds if curve]))
        # A curve of one reading is none.
        if any(len(curve) > 1 for bundle in curves for curve in bundle.seeds):
            name = "all" if words.number(labels) is None else f"{labels:g}"
            figure = figures.finetune_curves(name, curves)
            drawn.append({"budget": words.budget({"labels_per_class": labels}, fraction), "figure": figure})
    return drawn


def _samples(arrays: Arrays, classes: Sequence[str]) -> list[Context]:
    if "samples" not in arrays:
        return []
    shown = figures.pictures(arrays["samples"], 72)
    labels, names = arrays.get("sample_labels"), arrays.get("sample_names", np.full(len(shown), ""))
    if labels is None or len(labels) != len(shown):
        return [{"picture": picture, "label": None, "name": str(names[i])} for i, picture in enumerate(shown)]
    order = np.argsort(labels, kind="stable")
    return [
        {
            "picture": shown[i],
            "label": class_name(classes, int(labels[i])) if labels[i] >= 0 else None,
            "name": str(names[i]),
        }
        for i in order
    ]


def _gallery(arrays: Arrays) -> list[Context]:
    keys = ("gallery_input", "gallery_visible", "gallery_reconstruction")
    if not all(key in arrays for key in keys):
        return []
    names = arrays.get("gallery_names", np.full(len(arrays[keys[0]]), ""))
    rows = zip(*(figures.pictures(arrays[key][:16], 96) for key in keys), names, strict=False)
    return [{"pictures": triple, "name": str(name)} for *triple, name in rows]


def _environment(details: Context, files: Any) -> list[tuple[str, str]]:
    """What a second run would need to know, as label and text."""
    machine, versions = details.get("environment") or {}, details.get("versions") or {}
    device = ", ".join(str(details[key]) for key in ("device", "precision") if details.get(key))
    rows = [
        ("command", details.get("command")),
        ("recipe", details.get("recipe")),
        ("images without a label", words.unlabelled(details)),
        ("date", details.get("date")),
        ("commit", details.get("commit")),
        ("duration", words.duration(details["seconds"]) if details.get("seconds") is not None else None),
        ("device", device),
        *((key.replace("_gib", " (GiB)").replace("_", " "), value) for key, value in machine.items()),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]
    told = [(label, str(value)) for label, value in rows if value not in (None, "")]
    return [*told, ("files", ", ".join(str(name) for name in files.values()))] if told and files else told
