"""Results of earlier versions are read as today's; those of later ones are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pocketvit.errors import UserError
from pocketvit.report import words
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


def test_what_is_of_today_stays_as_it_is() -> None:
    new = updated(OLD)
    assert updated(new) is new
    assert "details" not in printable(new)


def test_another_format_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="results in format 99, and this PocketViT reads up to format 2"):
        read_summary(tmp_path)
