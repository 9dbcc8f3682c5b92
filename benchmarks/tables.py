"""Write the tables of README and docs from the evidence in results/: no published number is typed by hand.

A table stands between `<!-- table:NAME -->` and `<!-- /table -->`. NAME is `budget` or `devices`, counted here and now;
`cifar`: what benchmarks/reproduce.py wrote for the recipes of CIFAR-10 and CIFAR-100, beside what others have published
(benchmarks/published.json); `parts`: what each part adds, from several files of trials.py; or a file
results/NAME.json: `throughput-DEVICE`, `scaling-DEVICE`, `trials-NAME`, `operators-NAME`, `exports-NAME`,
`splits-NAME` and `equal-time-NAME` are written by the benchmarks of those names, `bench-NAME` by `pocketvit bench`,
and any other is a copy of a run's summary.json. `tested-NAME` is what trials-NAME.json has of the test images.

    python benchmarks/tables.py           write the tables
    python benchmarks/tables.py --check   write nothing; exit status 1 where a table differs from its evidence
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from bench_tables import (
    equal_time_table,
    labels_table,
    plans_table,
    scaling_table,
    splits_table,
    tested_table,
    throughput_table,
    trials_table,
)
from cifar_table import cifar_table
from cost_tables import bench_table, budget_table, devices_table, exports_table, operators_table
from parts_table import parts_table
from writing import BadEvidence, Json, device, markdown, minutes, plain, when

from pocketvit.pages import words
from pocketvit.run.summary import updated

REPO = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- table:(?P<name>[\w.-]+) -->\n)(?P<body>.*?)(<!-- /table -->)", re.DOTALL)
MISSING = "*not measured yet*\n"


def main(argv: list[str] | None = None) -> int:
    """Write or check every table; returns the exit status."""
    parser = argparse.ArgumentParser(description="write the tables of README and docs from results/")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where a table differs")
    parser.add_argument("--root", type=Path, default=REPO, help="folder that holds README.md, docs/ and results/")
    given = parser.parse_args(argv)
    stale = []
    for path in (given.root / "README.md", *sorted((given.root / "docs").glob("*.md"))):
        try:
            before = path.read_text(encoding="utf-8")
            after = filled(before, given.root / "results")
        except (OSError, BadEvidence) as error:
            print(f"tables: {path.name}: {error}", file=sys.stderr)
            return 2
        if before != after:
            stale.append(path.name)
            if not given.check:
                path.write_text(after, encoding="utf-8")
    if stale and given.check:
        print(f"tables: {', '.join(stale)}: differs from results/: run `make tables`", file=sys.stderr)
    return int(bool(stale) and given.check)


def filled(text: str, results: Path) -> str:
    """The text with every table made anew from `results`; raises BadEvidence."""
    if not text.count("<!-- table:") == text.count("<!-- /table -->") == len(BLOCK.findall(text)):
        raise BadEvidence("a table lacks its <!-- table:NAME --> or its <!-- /table -->")
    return BLOCK.sub(lambda found: found[1] + table(found["name"], results) + found[4], text)


def table(name: str, results: Path) -> str:
    """The body of one table, ending in a newline; raises BadEvidence."""
    if name == "budget":
        return budget_table()
    if name == "devices":
        return devices_table()
    if name == "cifar":
        return cifar_table(results)
    if name == "parts":
        return parts_table(results)
    # The same evidence, of which README shows no more than the test images.
    file = results / f"{re.sub('^tested-', 'trials-', name)}.json"
    if not file.is_file():
        return MISSING
    made_by: dict[str, tuple[Callable[[Json], str], str]] = {
        "throughput": (throughput_table, "the evidence of benchmarks/throughput.py"),
        "bench": (bench_table, "what `pocketvit bench` writes"),
        "labels": (labels_table, "the evidence of benchmarks/labels.py"),
        "plans": (plans_table, "the evidence of benchmarks/plans.py"),
        "equal": (equal_time_table, "the evidence of benchmarks/equal_time.py"),
        "operators": (operators_table, "the evidence of benchmarks/operators.py"),
        "exports": (exports_table, "the evidence of benchmarks/exports.py"),
        "scaling": (scaling_table, "the evidence of benchmarks/scaling.py"),
        "splits": (splits_table, "the evidence of benchmarks/splits.py"),
        "tested": (tested_table, "the evidence of benchmarks/trials.py"),
        "trials": (trials_table, "the evidence of benchmarks/trials.py"),
    }
    table_of, what = made_by.get(name.partition("-")[0], (result_table, "the summary of a `fit`"))
    try:
        return table_of(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BadEvidence(f"results/{file.name} is not {what} ({error!r})") from error


def result_table(summary: Json) -> str:
    """A row for each label budget of a run of `fit`, a column for each arm, and what produced them."""
    summary = updated(dict(summary))
    details, arms, entries = summary["details"], words.arms(summary), summary["finetune"]
    titles = [f"{arm['title']}, then fine-tuned" if arm["pretrained"] else arm["title"] for arm in arms.values()]
    gains = [f"{arms[g['arm']]['title']} over {arms[g['over']]['title']}, points" for g in entries[0]["gains"]]
    head = ["labels", *titles, "raw pixels", *(gains if len(gains) > 1 else ["gain, points"])]
    rows = []
    for entry, pixels in zip(entries, details["pixels"], strict=True):
        # A run with a single budget names it here only, where it is of the first version.
        per_class = pixels["labels_per_class"]
        share = words.budget({"labels_per_class": per_class}, details["label_fraction"])
        images = next(run["labels"] for run in details["runs"] if run["labels_per_class"] == per_class)
        name = entry["pixels"]["name"]
        everything = per_class is None and details["label_fraction"] is None
        seeds = 1 if everything else len(entry["arms"][next(iter(arms))]["seeds"])
        rows.append(
            [
                f"{share} ({images:,} images)",
                *(_accuracy(entry["arms"][arm], len(entry["arms"][arm]["seeds"])) for arm in arms),
                f"{_accuracy(pixels[name], seeds)} ({words.method(name)})",
                *(words.points(found["mean"]) for found in entry["gains"]),
            ]
        )
    return plain(f"{markdown(head, rows)}\n\n<sub>{_origin(summary, entries[0])}</sub>\n")


def _accuracy(result: Json, seeds: int) -> str:
    """Percent; with the standard deviation where there are several seeds to take it over."""
    value = f"{100 * result['accuracy']:.1f}"
    return f"{value} ± {100 * result['std']:.1f} %" if seeds > 1 else f"{value} %"


def _origin(summary: Json, entry: Json) -> str:
    data, model, details = summary["dataset"], summary["model"], summary["details"]
    here, pretrained, first = details["environment"], summary["pretrain"], next(iter(entry["arms"].values()))
    machine = device(details)
    size = "×".join(str(side) for side in data["shape"])
    seeds = ", ".join(str(seed) for seed in first["seeds"])
    seconds = sum(stage["seconds"] for stage in pretrained.values())
    lengths = "; ".join(f"{p['epochs']} epochs; held-out loss: {p['verdict']}" for p in pretrained.values())
    # A resumed run's seconds are those of its last part, while a stage's are those of all its parts.
    planned = (details.get("plan") or {}).get("seconds")
    beside = f" ({minutes(planned)} planned)" if planned else ""
    whole = "" if details.get("resumed") else f"{minutes(details['seconds'])} in all{beside}, "
    spent = f"{whole}{minutes(seconds)} {'of them ' if whole else ''}pre-training"
    sentences = [
        f"`{details['command']}`",
        f"{data['train']:,} train, {data['val']:,} validation and {data['test']:,} test images of {size}, "
        f"{len(data['classes'])} classes; saved: preset {model['preset']}, {words.amount(model['params'])} parameters",
        f"{machine}, {here['cores']} cores, {details['precision']}: {spent} ({lengths})",
        f"{'Seeds' if len(first['seeds']) > 1 else 'Seed'} {seeds}; {when(details)}",
        _probes(summary["probe"]),
    ]
    return ". ".join(sentences) + "."


def _probes(probe: Json) -> str:
    first = next(iter(probe))
    probed = [f"{words.percent(probe[first][k])} ({words.percent(probe['random'][k])})" for k in ("knn", "linear")]
    return f"Frozen pre-trained encoder (random init in brackets): kNN {probed[0]}, linear probe {probed[1]}"


if __name__ == "__main__":
    sys.exit(main())
