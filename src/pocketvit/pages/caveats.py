"""What a headline owes its reader: how sure it is, what is better or simpler, and what speaks against it."""

from collections.abc import Sequence

from pocketvit.evaluation.statistics import told_apart
from pocketvit.pages import words

# Of what is said of the data: findings that speak against a verdict.
DOUBTED = ("are identical to", "are among those that", "stand under two labels", "file names look like groups")
USED = 0.8  # of a time limit; where less was used, it is said why
SHORT = 0.7  # of a stage's steps, some of which are there only for a pace that was measured too low


def rivals(summary: words.Json, entry: words.Json) -> list[str]:
    """A sentence for each network of another kind beside the pre-trained one: which is ahead, as far as can be told."""
    said, known = [], words.arms(summary)
    for gain in entry.get("gains") or []:
        reached, difference = words.accuracy(entry["arms"].get(gain["over"])), words.number(gain.get("mean"))
        if gain.get("alike", True) or reached is None or difference is None:
            continue
        interval = gain.get("interval") or {}
        low, high = words.number(interval.get("low")), words.number(interval.get("high"))
        first, second = (known[gain[end]]["title"] for end in ("arm", "over"))
        if low is None or high is None or low <= 0 <= high:
            ahead = f"which of the two is better cannot be told ({words.points(-difference)} points)"
        else:
            alone = ", by the test images alone" if interval.get("seeds") == 1 else ""
            least, most = sorted((abs(low), abs(high)))
            end = f"{100 * least:.1f} to {100 * most:.1f} with 95{words.NBSP}% confidence{alone}"
            own = f"{'fine-tuning from ' if known[gain['arm']]['pretrained'] else ''}{first}"
            size = f"{100 * abs(difference):.1f} points {'less' if difference > 0 else 'more'}"
            ahead = f"{size} than {own} ({end})"
        said.append(f"A {second} trained from scratch for as many steps has {words.percent(reached)}: {ahead}.")
    return said


def undertrained(summary: words.Json, entries: Sequence[words.Json]) -> str | None:
    """A sentence where fine-tuning ended below the linear probe of the encoder that it started from, at its largest."""
    for name in (name for name, arm in words.arms(summary).items() if arm["pretrained"]):
        probe = words.number(((summary.get("probe") or {}).get(name) or {}).get("linear"))
        reached = [value for entry in entries if (value := words.accuracy(entry["arms"].get(name))) is not None]
        if probe is not None and reached and reached[-1] < probe:
            clear = _told_apart(summary, reached[-1], probe)
            why = "it was too short, or its rate does not suit" if clear else "by chance, or because it was too short"
            return (
                f"Fine-tuning ended at {words.percent(reached[-1])}, below the {words.percent(probe)} of a linear "
                f"classifier on the frozen encoder that it started from: {why}."
            )
    return None


def _told_apart(summary: words.Json, first: float, second: float) -> bool:
    """Whether two accuracies differ by more than chance; taken for granted where nobody kept how many were tested."""
    tested = words.number((summary.get("dataset") or {}).get("test"))
    return told_apart(first, second, int(tested)) if tested else first != second


def outdone(summary: words.Json, entries: Sequence[words.Json], fraction: object = None) -> str | None:
    """A sentence where something simpler did better than the network that was saved, at the largest label budget.

    By a difference that may be chance it did as well.
    """
    details = summary.get("details") or {}
    shipped = str(details.get("shipped"))
    probe = (summary.get("probe") or {}).get(shipped) or {}
    tuned = words.accuracy((entries[-1]["arms"] if entries else {}).get(shipped))
    own = words.number(probe.get("linear")) if details.get("frozen") else tuned
    if own is None:
        return None
    pixels = entries[-1].get("pixels") or {}
    others = {
        f"the {arm['title']}": words.accuracy(entries[-1]["arms"].get(name))
        for name, arm in words.arms(summary).items()
        if name != shipped and not words.is_vit(arm)
    }
    simpler = {
        **others,
        f"{words.method(str(pixels.get('name', 'a classifier')))} on raw pixels": words.accuracy(pixels),
        "a linear classifier on the frozen encoder": words.number(probe.get("linear")),
    }
    better = {name: value for name, value in simpler.items() if value is not None and value > own}
    if not better:
        return None
    best = max(better, key=lambda name: better[name])
    how = "better" if _told_apart(summary, better[best], own) else "as well"
    return (
        f"Something simpler does {how} {words.at_budget(entries[-1], fraction)}: {best} has "
        f"{words.percent(better[best])}, the network that was saved {words.percent(own)}."
    )


def soundness(summary: words.Json, entries: Sequence[words.Json]) -> list[tuple[bool, str]]:
    """What speaks for the verdict on pre-training, and what against it: (for, a sentence)."""
    details, entry = summary.get("details") or {}, entries[-1]
    known, runs = words.arms(summary), details.get("runs") or []
    said: list[tuple[bool, str]] = []
    seeds = min((len(arm.get("seeds") or [0]) for arm in entry["arms"].values()), default=0)
    said.append(
        (seeds >= 3, f"{seeds} seed{'' if seeds == 1 else 's'} of each arm; three are the least that tell chance.")
    )
    tested = words.number((summary.get("dataset") or {}).get("test")) or 0
    said.append((tested >= 300, f"{tested:.0f} test images; below 300, one point is less than three of them."))
    if words.gain(entry) is None:
        said.append(
            (False, "Nothing was trained from random init beside it, so that pre-training is compared to nothing.")
        )
    else:
        said.append((words.sure(entry) != 0, words.ground(entry)))
        steps = {name: [run.get("steps") for run in runs if run.get("init") == name] for name in known}
        taken = [sum(found) for found in steps.values() if found and None not in found]
        if len(taken) > 1:
            equal = max(taken) <= 1.1 * min(taken)
            said.append((equal, "All arms were fine-tuned for as many steps." if equal else "Arms had unequal steps."))
    if (short := undertrained(summary, entries)) is not None:
        said.append((False, short))
    for name, found in (summary.get("pretrain") or {}).items():
        if found.get("verdict"):
            done = found["verdict"] == "flat"
            said.append((done, f"Pre-training by {known[name]['title']}: the held-out loss is {found['verdict']}."))
    if (init := details.get("init")) is not None:
        said.append((True, f"Pre-training was done before: the weights are those of {init}."))
    doubts = [note for note in details.get("notes") or [] if any(mark in note for mark in DOUBTED)]
    return [*said, *((False, note[:1].upper() + note[1:] + ".") for note in doubts)]


def unmoved(summary: words.Json) -> list[str]:
    """A sentence for each pre-training whose features are not surely better neighbours than an untrained encoder's."""
    said = []
    for name, found in ((summary.get("details") or {}).get("metric") or {}).items():
        entry = found["budgets"][-1]
        over = entry.get("over_random") or {}
        mean, low, high = (words.number(over.get(key)) for key in ("mean", "low", "high"))
        if mean is None or low is None or high is None or low > 0:
            continue
        title = words.arms(summary)[name]["title"]
        own, other = words.percent(entry["knn"]), words.percent(entry["knn"] - mean)
        first = (
            f"Pre-training by {title} has made distances worse"
            if high < 0
            else f"Whether pre-training by {title} has made distances better cannot be told"
        )
        said.append(
            f"{first}: nearest neighbours on its features name {own} of the test images, on an untrained encoder's "
            f"{other}, with the same labels ({words.points(low)} to {words.points(high)} points with "
            f"95{words.NBSP}% confidence)."
        )
    return said


def unused(summary: words.Json) -> str | None:
    """A sentence on why much of a time limit was left; None where it was used, or where the plan leaves it."""
    details, known = summary.get("details") or {}, words.arms(summary)
    plan = details.get("plan") or {}
    limit, planned = words.number(plan.get("limit")), words.number(plan.get("seconds"))
    took = words.number(details.get("seconds"))
    if limit is None or planned is None or took is None or took >= USED * limit or planned < USED * limit:
        return None
    stages = [
        (f"pre-training ({known[name]['title']})", "", found) for name, found in (summary.get("pretrain") or {}).items()
    ]
    for run in details.get("runs") or []:
        arm = known[run["init"]]
        doing = f"fine-tuning from {arm['title']}" if words.is_vit(arm) else f"training a {arm['title']}"
        stages.append((doing, ", and the other arms were given as many" if len(known) > 1 else "", run))
    said = f"It ended {words.duration(limit - took)} before its limit"
    stages = [stage for stage in stages if stage[2].get("steps") and stage[2].get("planned_steps")]
    shares = [found["steps"] / found["planned_steps"] for _, _, found in stages]
    if not shares or min(shares) >= SHORT:
        return f"{said}: its stages were quicker than was measured before the first. The same command measures anew."
    doing, others, found = stages[shares.index(min(shares))]
    return (
        f"{said}: {doing} was slower than was measured, and landed at {found['steps']:,} of "
        f"{found['planned_steps']:,} steps{others}. Where nothing else is at work on the machine, the same command "
        "does more."
    )


def standfirst(summary: words.Json, entries: Sequence[words.Json]) -> list[str]:
    """What the headline owes its reader: how sure it is, what plain pixels reach, what pre-training cost."""
    said = []
    entry = next((entry for entry in entries if words.gain(entry) is not None), None)
    if entry is not None:
        said.append(words.ground(entry))
        baseline = words.accuracy(entry.get("pixels"))
        if baseline is not None:
            own = words.accuracy(entry["arms"].get(words.lead(entry)["arm"])) or 0.0
            clear = _told_apart(summary, baseline, own)
            rank = "about as much as" if not clear else "more than" if baseline > own else "less than"
            name = words.method(str(entry["pixels"].get("name", "classifier")))
            said.append(
                f"The classifier on raw pixels that was picked without the test images ({name}) reaches "
                f"{words.percent(baseline)}, {rank} the pre-trained model."
            )
    said += rivals(summary, entry or (entries[-1] if entries else {}))
    if (warning := undertrained(summary, entries)) is not None:
        said.append(warning)
    said += unmoved(summary)
    evaluation = (summary.get("details") or {}).get("evaluation")
    reached, chance = words.accuracy(evaluation), words.chance(evaluation)
    if reached is not None and chance is not None and reached <= chance:
        said.append(
            f"What was saved is right for {words.percent(reached)} of the test images, no more than always naming the "
            f"most frequent class is ({words.percent(chance)})."
        )
    device = (summary.get("details") or {}).get("device")
    for name, pretrained in (summary.get("pretrain") or {}).items():
        if (seconds := words.number(pretrained.get("seconds"))) is not None:
            of = f" by {words.arms(summary)[name]['title']}" if len(summary["pretrain"]) > 1 else ""
            said.append(f"Pre-training{of} took {words.duration(seconds)}{f' on {device}' if device else ''}.")
    return said


def first(summary: words.Json, entries: Sequence[words.Json], fraction: object = None) -> list[str]:
    """What follows the headline: what outdoes the network that was saved, where something does, and the standfirst."""
    outdoes = outdone(summary, entries, fraction)
    return [*([outdoes] if outdoes else []), *standfirst(summary, entries)]
