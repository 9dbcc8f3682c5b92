"""The page's words: numbers as people read them, and the verdict on pre-training in plain sentences.
A gain that its interval does not set apart from nothing is not called one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

NBSP = "\u00a0"  # keeps a number and its unit on one line

_METHODS = {
    "svm": "SVM", "knn": "kNN", "logistic regression": "Logistic regression", "ridge": "Ridge regression",
    "label spreading": "Label spreading",
}  # fmt: skip

Json = Mapping[str, Any]


def number(value: object) -> float | None:
    """A finite number, or None for anything else that JSON may hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def percent(value: object) -> str:
    """0.897 as 89.7 %."""
    fraction = number(value)
    return "n/a" if fraction is None else f"{100 * fraction:.1f}{NBSP}%"


def points(value: object) -> str:
    """A difference of fractions in signed percentage points: 0.094 as +9.4."""
    difference = number(value)
    if difference is None:
        return "n/a"
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\u2212")


def amount(value: object) -> str:
    """A count with three digits that matter: 3604234 as 3.60 M."""
    count = number(value)
    if count is None:
        return "n/a"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            scaled = count / size
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f}{NBSP}{unit}"
    return f"{count:g}"


def duration(value: object) -> str:
    """Seconds as 42 s, 5 min 20 s or 3 h 10 min."""
    seconds = number(value)
    if seconds is None:
        return "n/a"
    if seconds < 99.5:
        return f"{seconds:.{1 if seconds < 10 else 0}f}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes}{NBSP}min {rest}{NBSP}s"
    return f"{minutes // 60}{NBSP}h {minutes % 60}{NBSP}min"


def method(name: str) -> str:
    """A baseline's name as prose writes it."""
    return _METHODS.get(name.lower(), name)


def budget(entry: Json, fraction: object = None) -> str:
    """How many labels a result used: '5 labels per class', '10 % of the labels' or 'all labels'."""
    labels = entry.get("labels_per_class")
    if labels is not None:
        return f"{labels} label{'' if labels == 1 else 's'} per class"
    share = number(fraction)
    return "all labels" if share is None or share >= 1 else f"{100 * share:g}{NBSP}% of the labels"


def unlabelled(details: Json) -> str | None:
    """What images without a label were used for in fine-tuning; None where none was."""
    runs = [run for run in details.get("runs") or [] if run.get("unlabelled")]
    if not runs:
        return None
    ways = {"graph": "labels spread over a graph of pixels", "teacher": "named by a teacher, the network's average"}
    return f"{max(run['unlabelled'] for run in runs):,} in fine-tuning, {ways[runs[0]['unlabelled_by']]}"


def at_budget(entry: Json, fraction: object = None) -> str:
    """The same with its preposition."""
    return ("at " if entry.get("labels_per_class") is not None else "with ") + budget(entry, fraction)


def accuracy(result: object) -> float | None:
    """The accuracy inside a result object, if there is one."""
    return number(result.get("accuracy")) if isinstance(result, Mapping) else None


def arms(summary: Json) -> dict[str, Json]:
    """The arms of a run by name, in order."""
    return {str(arm["name"]): arm for arm in summary.get("arms") or []}


def is_vit(arm: Json) -> bool:
    """Whether an arm is the network that is pre-trained, rather than another kind; what is old knew no other."""
    return bool(arm.get("network", "vit") == "vit")


def network(arm: Json, frozen: bool = False) -> str:
    """An arm's network, or its `frozen` encoder, in words."""
    if not is_vit(arm):
        return f"the {arm['title']}"
    return f"{'the frozen encoder with a linear head' if frozen else 'the network'} from {arm['title']}"


def lead(entry: Json) -> Json:
    """The comparison that the page speaks of first, of arms alike but for pre-training: empty where there is none."""
    return next((gain for gain in entry.get("gains") or [] if gain.get("alike", True)), {})


def gain(entry: Json) -> float | None:
    """Of the pre-trained arm over the other, as a fraction; None where either is missing."""
    return number(lead(entry).get("mean"))


def headline(summary: Json, entries: Sequence[Json], fraction: object = None) -> str:
    """The verdict, or failing two arms to compare, the best that the run can say."""
    compared = [entry for entry in entries if gain(entry) is not None]
    if compared:
        return _verdict(summary, compared, fraction)
    if (own := _own(summary, entries, fraction)) is not None:
        return own
    probes = {name: number(values.get("linear")) for name, values in (summary.get("probe") or {}).items()}
    first = next((name for name, arm in arms(summary).items() if arm["pretrained"] and probes.get(name)), None)
    if first is not None and probes.get("random") is not None:
        own = percent(probes[first])
        return f"{own} by linear probe of the pre-trained encoder, {percent(probes['random'])} of random init"
    evaluation = (summary.get("details") or {}).get("evaluation") or {}
    if accuracy(evaluation) is not None:
        return f"{percent(accuracy(evaluation))} test accuracy"
    for pretrained in (summary.get("pretrain") or {}).values():
        loss, verdict = number(pretrained.get("heldout_loss")), pretrained.get("verdict")
        tail = ("" if loss is None else f": held-out loss {loss:.3g}") + (f", {verdict}" if verdict else "")
        return f"Pre-trained for {pretrained.get('epochs', 'some')} epochs{tail}"
    return "A run without results yet"


def _own(summary: Json, entries: Sequence[Json], fraction: object) -> str | None:
    """What the network that was saved reaches, at each label budget that it was trained at; None where none was."""
    details, known = summary.get("details") or {}, arms(summary)
    trained = [name for name in known if any(accuracy(entry["arms"].get(name)) is not None for entry in entries)]
    if not trained:
        return None
    shipped = str(details.get("shipped"))
    name = shipped if shipped in trained else trained[0]
    arm, tuned = known[name], [(entry, accuracy(entry["arms"].get(name))) for entry in entries]
    frozen = number(((summary.get("probe") or {}).get(name) or {}).get("linear")) if details.get("frozen") else None
    if frozen is not None:
        return (
            f"{percent(frozen)} test accuracy {at_budget(entries[-1], fraction)}, by {network(arm, frozen=True)}; "
            f"fine-tuned, {percent(tuned[-1][1])}"
        )
    reached = [(entry, value) for entry, value in tuned if value is not None]
    told = (
        f"{percent(value)}{'' if place else ' test accuracy'} {at_budget(entry, fraction)}"
        for place, (entry, value) in enumerate(reached)
    )
    start = f"{'fine-tuned' if arm['pretrained'] else 'trained'} from {arm['title']}"
    return f"{' and '.join(told)}, {start if is_vit(arm) else 'a {title} from scratch'.format(**arm)}"


def sure(entry: Json) -> int:
    """What the interval of the gain allows to say: 1 for a gain, -1 for a loss, 0 for neither or no interval."""
    interval = lead(entry).get("interval") or {}
    low, high = number(interval.get("low")), number(interval.get("high"))
    return 0 if low is None or high is None else int(low > 0) - int(high < 0)


def ground(entry: Json) -> str:
    """What the interval of the gain rests on, in a sentence."""
    value, interval = points(gain(entry)), lead(entry).get("interval") or {}
    low, high = number(interval.get("low")), number(interval.get("high"))
    if low is None or high is None:
        return f"What the difference of {value} points may be elsewhere is not known: too few predictions were kept."
    seeds, images = interval.get("seeds"), interval.get("images")
    span = f"The difference of {value} points is {points(low)} to {points(high)} with 95{NBSP}% confidence"
    if seeds == 1:
        return f"{span} by its {images} test images alone: what another seed would give is not known."
    return f"{span}, by {seeds} seeds and {images} test images, for this one pre-training."


def _verdict(summary: Json, compared: Sequence[Json], fraction: object) -> str:
    told = [sure(entry) for entry in compared]
    if len(set(told)) > 1:
        return _verdicts(compared, told, fraction)
    entry = compared[0]
    verdicts = ("Whether pre-training helped cannot be told", "Pre-training helped", "Pre-training did harm")
    verb, names = verdicts[told[0]], (str(lead(entry)["arm"]), str(lead(entry)["over"]))
    first, second = (percent(accuracy(entry["arms"].get(name))) for name in names)
    return f"{verb}: {first} against {second} from {arms(summary)[names[1]]['title']}, {at_budget(entry, fraction)}"


def _verdicts(compared: Sequence[Json], told: Sequence[int], fraction: object) -> str:
    """Of label budgets that differ in what can be told: how many of each, and the largest difference among these."""
    said: list[str] = []
    for verdict, does in ((1, "helped at {}"), (-1, "did harm at {}"), (0, "whether it helped cannot be told at {}")):
        entries = [entry for entry, one in zip(compared, told, strict=True) if one == verdict]
        if entries:
            most = max(entries, key=lambda entry: abs(gain(entry) or 0.0))
            count = f"{len(entries)}" if said else f"{len(entries)} of {len(compared)} label budgets"
            said.append(f"{does.format(count)}: {points(gain(most))} points {at_budget(most, fraction)}")
    return f"Pre-training {'; '.join(said)}"


def chance(evaluation: Json | None) -> float | None:
    """Share of the most frequent class among the test images."""
    rows = [sum(row) for row in (evaluation or {}).get("confusion") or []]
    return max(rows) / sum(rows) if rows and sum(rows) else None


def weakest(evaluation: Json) -> str | None:
    """The class that the saved classifier knows least, what it takes it for, and of how many images; None of none."""
    shares = {name: share for name, value in (evaluation.get("per_class") or {}).items()
              if (share := number(value)) is not None}  # fmt: skip
    if len(shares) < 2:
        return None
    name, names = min(shares, key=lambda name: shares[name]), list(evaluation["per_class"])
    row = list((evaluation.get("confusion") or {})[names.index(name)]) if evaluation.get("confusion") else []
    own = names.index(name)
    wrong = {names[other]: count for other, count in enumerate(row) if other != own and count}
    taken = f", most taken for {max(wrong, key=lambda other: wrong[other])}" if wrong else ""
    of = f" of {sum(row)} test images" if row else ""
    return f"{name}: {percent(shares[name])}{of}{taken}"
