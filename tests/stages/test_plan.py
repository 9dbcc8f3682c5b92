"""What fits into a time, and what gives way for it."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import planner
import pytest

from pocketvit.config import resolve
from pocketvit.data import load
from pocketvit.errors import UserError
from pocketvit.stages import speeds
from pocketvit.stages.arms import arms_named
from pocketvit.stages.finetuning import finetune_key
from pocketvit.stages.plan import CLOSE, GENEROUS, LONGEST, Length, Outlay, Plan, make_plan
from pocketvit.training.device import make_accelerator
from pocketvit.training.finetune import finetuning

ARMS, SEEDS = arms_named(["mae", "random"]), range(5, 8)
# Pre-training 100 s; a fine-tuning 50 s and 1 s for its test; 3 s at each label count for pixels; a report of 4 s.
OUTLAY = Outlay(
    pretrain={"mae": Length(1000, 0.1, 2.0)},
    finetune={"vit": {5: Length(500, 0.1, 1.0), None: Length(500, 0.1, 1.0)}},
    probe=1.5,
    probed=None,
    pixels={5: 1.0, None: 1.0},
    pixel_seeds=True,
    labels=0.0,
    report=4.0,
)
WHOLE = 102 + 12 * 51 + 2 * 1.5 + 2 * 3 + 4


def plan(**about: float) -> Plan:
    return make_plan(OUTLAY, ARMS, SEEDS, 10.0, finetune_key, **about)


def test_without_a_limit_all_is_as_the_recipe_has_it() -> None:
    made = plan()
    assert (made.arms, made.seeds, made.notes) == (("mae", "random"), 3, ())
    assert made.seconds == pytest.approx(10 + WHOLE)
    assert made.steps("pretrain-mae") == 1000
    assert made.steps("finetune-random-all-6") == 500
    assert made.steps("probe") is None
    assert made.seconds_for("pretrain-mae", 10.0, lambda key: False) == math.inf
    assert [part.key for part in made.parts[:4]] == ["pixels-5", "pixels-all", "pretrain-mae", "probe"]


@pytest.mark.parametrize(
    ("limit", "arms", "seeds"),
    [(800, 2, 3), (650, 2, 2), (500, 2, 2), (360, 2, 1), (250, 1, 1), (100, 1, 1)],
)
def test_first_seeds_then_random_init_then_lengths_give_way(limit: float, arms: int, seeds: int) -> None:
    made = plan(limit=limit)
    assert (len(made.arms), made.seeds) == (arms, seeds)
    assert made.seconds == pytest.approx(CLOSE * limit, rel=0.02)
    first = sum(part.seconds for part in made.parts if part.key.startswith("pretrain") or part.key.endswith("-5"))
    first -= sum(part.seconds for part in made.parts if part.key == "pixels-5")
    assert first >= 0.5 * limit or seeds in (1, 3)
    note = " ".join(made.notes)
    assert ("random init" in note) == (arms == 1)
    assert (f"{3 - seeds} of 3 seeds" in note) == (seeds < 3)


def test_each_objective_takes_its_own_time() -> None:
    arms = arms_named(["mae", "contrast", "random"])
    outlay = replace(OUTLAY, pretrain={**OUTLAY.pretrain, "contrast": Length(1000, 0.2, 2.0)})
    parts = {part.key: part for part in make_plan(outlay, arms, SEEDS, 10.0, finetune_key).parts}
    assert (parts["pretrain-mae"].seconds, parts["pretrain-contrast"].seconds) == (102, 202)
    assert parts["pretrain-contrast"].title == "pre-training (MAE + contrast)"


def test_an_epoch_has_the_images_without_a_label_that_training_has() -> None:
    settings, accelerator = resolve("digits", labels_per_class=5, device="cpu"), make_accelerator("cpu", "float32")
    assert settings.finetune.unlabelled == "graph"
    dataset = load("digits", settings.data)
    step = finetuning(dataset, planner.labels_of(dataset, settings), settings, accelerator, seed=0, init=None)
    assert planner.steps_per_epoch(dataset, settings)["finetune"] == step.batches.steps_per_epoch > 1
    assert planner.steps_per_epoch(dataset, settings)["pretrain"] == len(dataset.train) // settings.pretrain.batch_size


def test_a_rival_of_another_kind_stays() -> None:
    arms = arms_named(["mae", "random", "resnet"])
    outlay = replace(OUTLAY, finetune=dict.fromkeys(("vit", "resnet"), OUTLAY.finetune["vit"]))
    made = make_plan(outlay, arms, SEEDS, 10.0, finetune_key, limit=100)
    assert made.arms == ("mae", "resnet")
    assert "ResNet" not in " ".join(made.notes)


def test_what_more_time_would_buy_is_true() -> None:
    (note,) = plan(limit=250).notes
    minutes = int(note.split("--time-limit ")[1].split("m ")[0])
    assert plan(limit=60 * minutes).notes == ()


def test_a_long_limit_lengthens_everything_but_not_for_ever() -> None:
    longer, longest = plan(limit=2 * WHOLE), plan(limit=100 * WHOLE)
    assert longer.seconds == pytest.approx(CLOSE * 2 * WHOLE, rel=0.01)
    assert longer.steps("pretrain-mae") > 1500
    assert longest.steps("pretrain-mae") == LONGEST * 1000
    assert "ends before the limit" in longest.notes[0]


def test_a_wish_shortens_and_never_lengthens() -> None:
    assert plan(within=10 * WHOLE) == plan()
    short = plan(within=400)
    assert (short.seeds, short.limit) == (1, None)
    assert short.seconds <= 400
    assert short.seconds_for("pretrain-mae", 10.0, lambda key: False) == math.inf


def test_a_limit_that_cannot_be_kept_names_one_that_can() -> None:
    with pytest.raises(UserError, match=r"--time-limit: 15 s are too short .*give (\d+)s") as error:
        plan(limit=15)
    enough = int(str(error.value).split("give ")[1].removesuffix("s"))
    made = plan(limit=enough)
    assert made.seconds <= enough
    assert made.steps("pretrain-mae") >= 10


def test_what_is_left_is_divided_among_what_is_to_come() -> None:
    made = plan(limit=360)
    keys = [part.key for part in made.parts]
    seconds = {part.key: part.seconds - part.tail for part in made.parts if part.trains}
    steps = made.steps("pretrain-mae")
    assert steps == pytest.approx(GENEROUS * seconds["pretrain-mae"] / 0.1, rel=0.01)
    done = {"pixels-5", "pixels-all", "pretrain-mae", "probe", "labels"}
    # At the planned moment there is what was planned, and after a delay of 40 s for four stages each has lost 10.
    moment = made.spent + sum(part.seconds for part in made.parts if part.key in done)
    for late in (0.0, 40.0):
        got = made.seconds_for(keys[5], moment + late, done.__contains__)
        assert got == pytest.approx(seconds[keys[5]] - late / 4, abs=0.2)
        assert made.seconds_for(keys[5], moment + late, done.__contains__, 1.3) == pytest.approx(1.3 * got)
    # The last one has no more than there is, however patient one would be with it.
    last, others = [part for part in made.parts if part.trains][-1], set(keys[:-2])
    assert keys[-2:] == [last.key, "report"]
    spent = made.seconds - last.seconds - made.parts[-1].seconds
    planned, patient = (made.seconds_for(last.key, spent, others.__contains__, times) for times in (1.0, 1.3))
    assert patient == pytest.approx(planned + made.reserve)
    assert patient < 1.3 * planned
    assert made.seconds_for(keys[5], 1000.0, done.__contains__) == 0
    assert made.seconds_for("finetune-mae-9-0", moment, done.__contains__) == math.inf


def test_a_plan_survives_the_file() -> None:
    made = plan(limit=250)
    assert Plan.of(made.to_json()) == made


def test_a_stage_knows_its_place_and_what_it_was_to_take() -> None:
    made = plan(limit=250)
    place = made.place("probe", {"pixels-5"}.__contains__)
    assert (place.number, place.of, place.title) == (4, len(made.parts), "probe")
    others = [part.seconds for part in made.parts if part.key not in ("probe", "pixels-5")]
    assert place.later == pytest.approx(sum(others))
    assert place.planned is None  # it does not train
    own = next(part for part in made.parts if part.key == "pretrain-mae")
    trained = replace(made, limit=None).place("pretrain-mae", lambda key: False)
    assert trained.planned == pytest.approx(own.seconds - own.tail)
    assert replace(made, limit=600.0).place("pretrain-mae", lambda key: False).planned is None
    assert replace(made, parts=()).place("probe", lambda key: False) is None


def test_a_slow_step_keeps_nobody_waiting_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(speeds, "_seconds_of", lambda step, places: taken.append(places) or speeds.WARM + 1)
    monkeypatch.setattr(speeds, "from_main", lambda accelerator, value: value)
    assert speeds._seconds_a_step(SimpleNamespace(accelerator=None)) == speeds.WARM + 1
    assert taken == [[0]]
