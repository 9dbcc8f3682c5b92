"""Results of earlier versions are read as today's; those of later ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pocketvit.errors import UserError
from pocketvit.pages import words
from pocketvit.run.summary import FORMAT, printable, read_summary, updated

REPO = Path(__file__).resolve().parents[2]
OLD = json.loads((REPO / "results" / "eurosat-2pct.json").read_text())


def test_the_first_format_is_brought_up_to_date() -> None:
    new = updated(OLD)
    (table,) = new["finetune"]
    old = OLD["finetune"]
    assert new["format"] == FORMAT
    assert [(arm["name"], arm["title"]) for arm in new["arms"]] == [("mae", "MAE"), ("random", "random init")]
    assert table["arms"] == {"mae": old["mae"], "random": old["random"]}
    assert table["gains"][0]["mean"] == pytest.approx(old["gain"])
    assert new["pretrain"]["mae"] == OLD["pretrain"]
    assert (
        words.headline(new, new["finetune"], 0.02)
        .replace(words.NBSP, " ")
        .endswith("77.6 % against 70.7 % from random init, with 2 % of the labels")
    )


def test_tables_of_several_budgets_keep_their_order_and_their_figures() -> None:
    old = json.loads((Path(__file__).parent / "format-1.json").read_text())
    new = updated(old)
    assert [table["labels_per_class"] for table in new["finetune"]] == [5, None]
    for table, before in zip(new["finetune"], old["finetune"], strict=True):
        assert table["arms"] == {"mae": before["mae"], "random": before["random"]}
        assert table["pixels"] == before["pixels"]
        (gain,) = table["gains"]
        assert (gain["arm"], gain["over"]) == ("mae", "random")
        assert gain["mean"] == pytest.approx(before["gain"])
        # No interval was kept, so that none is told.
        assert gain["interval"] is None
    headline = words.headline(new, new["finetune"]).replace(words.NBSP, " ")
    assert headline == (
        "Whether pre-training helped cannot be told: 87.2 % against 75.7 % from random init, at 5 labels per class"
    )


@pytest.mark.parametrize("trained", ["mae", "random", None])
def test_an_arm_that_was_not_trained_is_none_of_todays(trained: str | None) -> None:
    arms = {name: OLD["finetune"][name] if name == trained else None for name in ("mae", "random")}
    old = {**OLD, "finetune": trained and {**OLD["finetune"], **arms, "gain": None, "gain_interval": None}, "probe": {}}
    if trained == "random":
        old["pretrain"] = None
    new = updated(old)
    assert [arm["name"] for arm in new["arms"]] == [trained or "mae"]
    assert [list(table["arms"]) for table in new["finetune"]] == ([[trained]] if trained else [])
    assert all(table["gains"] == [] for table in new["finetune"])
    assert new["pretrain"] == ({} if trained == "random" else {"mae": OLD["pretrain"]})


def test_what_is_of_today_stays_as_it_is() -> None:
    new = updated(OLD)
    assert updated(new) is new
    assert "details" not in printable(new)


def test_another_format_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "summary.json"
    file.write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(UserError) as refused:
        read_summary(tmp_path)
    assert str(refused.value) == f"{file}: results in format 3, and this PocketViT reads up to format 2"
