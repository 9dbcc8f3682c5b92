"""What a run is said to have found: headlines, verdicts, and what speaks against them."""

from typing import Any

import pytest

from pocketvit.pages import caveats, words
from pocketvit.run.summary import updated
from pocketvit.stages.arms import arms_named


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        (
            {"shipped": "mae"},
            "58.0 % test accuracy at 5 labels per class and 70.0 % with all labels, fine-tuned from MAE",
        ),
        (
            {"shipped": "mae", "frozen": True},
            "71.0 % test accuracy with all labels, by the frozen encoder with a linear head from MAE; "
            "fine-tuned, 70.0 %",
        ),
        ({"shipped": "resnet"}, "80.0 % test accuracy with all labels, a ResNet from scratch"),
    ],
)
def test_without_a_comparison_the_headline_is_of_what_was_saved(details: dict[str, Any], expected: str) -> None:
    arms = [
        {"name": "mae", "title": "MAE", "pretrained": True, "network": "vit"},
        {"name": "resnet", "title": "ResNet", "pretrained": False, "network": "resnet"},
    ]
    entries = [
        {"labels_per_class": 5, "arms": {"mae": {"accuracy": 0.58}}},
        {"labels_per_class": None, "arms": {"mae": {"accuracy": 0.7}, "resnet": {"accuracy": 0.8}}},
    ]
    summary = {"arms": arms, "details": details, "probe": {"mae": {"linear": 0.71}}}
    assert words.headline(summary, entries).replace(words.NBSP, " ") == expected


@pytest.mark.parametrize(
    ("pairs", "opening"),
    [
        ([(0.9, 0.8, 0.05)], "Pre-training helped: "),
        ([(0.9, 0.8, 0.2)], "Whether pre-training helped cannot be told: "),
        ([(0.9, 0.8, None)], "Whether pre-training helped cannot be told: "),
        ([(0.8, 0.8, 0.01)], "Whether pre-training helped cannot be told: "),
        ([(0.7, 0.8, 0.05)], "Pre-training did harm: "),
        (
            [(0.9, 0.8, 0.05), (0.7, 0.8, 0.05)],
            "Pre-training helped at 1 of 2 label budgets: +10.0 points with all labels; "
            "did harm at 1: \u221210.0 points with all labels",
        ),
        # The larger difference is not the one that is sure.
        (
            [(0.9, 0.8, 0.2), (0.83, 0.8, 0.01)],
            "Pre-training helped at 1 of 2 label budgets: +3.0 points with all labels; "
            "whether it helped cannot be told at 1: +10.0 points",
        ),
        (
            [(0.81, 0.8, 0.05), (0.7, 0.8, 0.05)],
            "Pre-training did harm at 1 of 2 label budgets: \u221210.0 points with all labels; "
            "whether it helped cannot be told at 1: +1.0 points",
        ),
    ],
)
def test_the_verdict_states_no_more_than_the_interval(
    pairs: list[tuple[float, float, float | None]], opening: str
) -> None:
    seeds = {"std": 0.01, "seeds": [0, 1, 2]}
    entries = [
        {
            "mae": {"accuracy": mae, **seeds},
            "random": {"accuracy": other, **seeds},
            "gain_interval": reach and {"low": mae - other - reach, "high": mae - other + reach},
        }
        for mae, other, reach in pairs
    ]
    summary = updated({"finetune": entries})
    assert words.headline(summary, summary["finetune"]).startswith(opening)


@pytest.mark.parametrize(
    ("seeds", "tail"),
    [(1, "by its 60 test images alone"), (3, "by 3 seeds and 60 test images, for this one pre-training.")],
)
def test_a_difference_names_its_ground(seeds: int, tail: str) -> None:
    entry = {"mae": {"accuracy": 0.9}, "random": {"accuracy": 0.8}}
    interval = {"low": 0.02, "high": 0.18, "seeds": seeds, "images": 60}
    (entry,) = updated({"finetune": [entry | {"gain": 0.1, "gain_interval": interval}]})["finetune"]
    said = words.ground(entry).replace(words.NBSP, " ")
    assert said.startswith("The difference of +10.0 points is +2.0 to +18.0 with 95 % confidence")
    assert tail in said


def test_fine_tuning_below_its_own_probe_is_said() -> None:
    entries = [{"mae": {"accuracy": 0.7}, "random": {"accuracy": 0.6}}]
    high, low = (updated({"finetune": entries, "probe": {"mae": {"linear": linear}}}) for linear in (0.75, 0.65))
    assert caveats.undertrained(low, low["finetune"]) is None
    said = caveats.undertrained(high, high["finetune"])
    assert said is not None
    assert "below the 75.0" in said
    assert said.endswith("it was too short, or its rate does not suit.")
    few = high | {"dataset": {"test": 100}}
    assert str(caveats.undertrained(few, few["finetune"])).endswith("by chance, or because it was too short.")


@pytest.mark.parametrize(("right", "said"), [(0, True), (1, False)])
def test_a_classifier_that_is_no_better_than_its_largest_class_is_said_so(right: int, said: bool) -> None:
    confusion = [[60, 0], [2 - right, right]]
    evaluation = {"accuracy": (60 + right) / 62, "confusion": confusion}
    found = " ".join(caveats.standfirst({"details": {"evaluation": evaluation}}, []))
    assert ("no more than always naming the most frequent class" in found) == said


@pytest.mark.parametrize(("tested", "does"), [(100, "as well"), (10_000, "better")])
def test_what_is_simpler_is_better_only_where_that_can_be_told(tested: int, does: str) -> None:
    entry = {"mae": {"accuracy": 0.9}, "random": {"accuracy": 0.8}, "pixels": {"name": "svm", "accuracy": 0.92}}
    summary = updated({"finetune": [entry], "details": {"shipped": "mae"}}) | {"dataset": {"test": tested}}
    said = caveats.outdone(summary, summary["finetune"])
    assert str(said).startswith(f"Something simpler does {does} with all labels: SVM on raw pixels")


@pytest.mark.parametrize(
    ("mean", "low", "high", "said"),
    [
        (0.014, 0.01, 0.04, ""),
        (0.014, -0.01, 0.04, "Whether pre-training by MAE has made distances better cannot be told"),
        (-0.014, -0.02, -0.01, "Pre-training by MAE has made distances worse"),
    ],
)
def test_what_pre_training_made_of_distances_is_said_where_it_did_not_help(
    mean: float, low: float, high: float, said: str
) -> None:
    over = {"mean": mean, "low": low, "high": high}
    entry = {"labels_per_class": None, "labels": 441, "knn": 0.55, "over_random": over}
    arms = [{"name": "mae", "title": "MAE", "pretrained": True}]
    summary = {"arms": arms, "details": {"metric": {"mae": {"rank": 9.0, "dimensions": 96, "budgets": [entry]}}}}
    found = " ".join(caveats.unmoved(summary)).replace(words.NBSP, " ")
    assert found.partition(":")[0] == said
    if said:
        assert f"name 55.0 % of the test images, on an untrained encoder's {100 * (0.55 - mean):.1f} %" in found


def test_a_rival_of_another_kind_stands_beside_the_verdict() -> None:
    arms = [
        {"name": "mae", "title": "MAE", "pretrained": True, "network": "vit"},
        {"name": "random", "title": "random init", "pretrained": False, "network": "vit"},
        {"name": "resnet", "title": "ResNet", "pretrained": False, "network": "resnet"},
    ]
    sure = {"low": 0.02, "high": 0.06, "seeds": 3, "images": 400}
    gains = [
        {"arm": "mae", "over": "resnet", "alike": False, "mean": 0.04, "interval": sure},
        {"arm": "mae", "over": "random", "alike": True, "mean": 0.1, "interval": sure | {"low": 0.05, "high": 0.15}},
    ]
    reached = {"mae": {"accuracy": 0.9}, "random": {"accuracy": 0.8}, "resnet": {"accuracy": 0.86}}
    entry = {"labels_per_class": None, "arms": reached, "gains": gains}
    # Pre-training is judged by what differs in that alone, in whatever order the gains stand.
    headline = words.headline({"arms": arms}, [entry]).replace(words.NBSP, " ")
    assert headline == "Pre-training helped: 90.0 % against 80.0 % from random init, with all labels"
    (said,) = (line.replace(words.NBSP, " ") for line in caveats.rivals({"arms": arms}, entry))
    expected = "86.0 %: 4.0 points less than fine-tuning from MAE (2.0 to 6.0 with 95 % confidence)."
    assert said == f"A ResNet trained from scratch for as many steps has {expected}"
    gains[0] |= {"mean": -0.078, "interval": sure | {"low": -0.149, "high": -0.007, "seeds": 1}}
    (said,) = caveats.rivals({"arms": arms}, entry)
    # Without a sign, which would be read as what is gained from MAE.
    assert ": 7.8 points more than fine-tuning from MAE (0.7 to 14.9 with" in said
    gains[0] |= {"mean": 0.04, "interval": sure | {"low": -0.01}}
    (said,) = caveats.rivals({"arms": arms}, entry)
    assert "which of the two is better cannot be told" in said


@pytest.mark.parametrize(("baseline", "rank"), [(0.91, "about as much as"), (0.99, "more than"), (0.5, "less than")])
def test_raw_pixels_are_ranked_only_where_that_can_be_told(baseline: float, rank: str) -> None:
    entry = {"mae": {"accuracy": 0.9}, "random": {"accuracy": 0.8}, "pixels": {"name": "svm", "accuracy": baseline}}
    summary = updated({"finetune": [entry], "dataset": {"test": 300}})
    assert f"{rank} the pre-trained model" in " ".join(caveats.standfirst(summary, summary["finetune"]))


@pytest.mark.parametrize(
    ("took", "planned", "pretrained", "tuned", "why"),
    [
        (382.0, 582.0, 500, 39, "fine-tuning from MAE was slower than was measured, and landed at 39 of 980 steps, and "
                                "the other arms were given as many. Where"),
        (382.0, 582.0, 60, 980, "pre-training (MAE) was slower than was measured, and landed at 60 of 500 steps. W"),
        (382.0, 582.0, 500, 980, "its stages were quicker than was measured before the first"),
        # Four fifths of the steps are what was planned for.
        (382.0, 582.0, 400, 784, "its stages were quicker than was measured before the first"),
        (500.0, 582.0, 500, 39, None),
        # The plan says itself that the limit is longer than what is known to help.
        (240.0, 250.0, 500, 980, None),
    ],
)  # fmt: skip
def test_a_time_limit_that_was_not_used_has_a_reason(
    took: float, planned: float, pretrained: int, tuned: int, why: str | None
) -> None:
    runs = [
        {"init": "mae", "steps": tuned, "planned_steps": 980},
        {"init": "random", "steps": tuned, "planned_steps": tuned},
    ]
    summary = {
        "arms": [arm.to_json() for arm in arms_named(["mae", "random"])],
        "pretrain": {"mae": {"steps": pretrained, "planned_steps": 500}},
        "details": {"seconds": took, "plan": {"limit": 600.0, "seconds": planned}, "runs": runs},
    }
    said = caveats.unused(summary)
    assert (said is None) == (why is None)
    if said and why:
        assert said.replace(words.NBSP, " ").startswith(f"It ended 3 min 38 s before its limit: {why}")


def test_nothing_is_unused_without_a_limit() -> None:
    assert caveats.unused({"details": {"seconds": 1.0, "plan": {"limit": None, "seconds": 9.0}}}) is None
