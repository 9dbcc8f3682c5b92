"""Settings in YAML files: what a file stands on, what earlier versions called things, what is no file of settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from pocketvit.cli import main
from pocketvit.config import as_yaml, resolve
from pocketvit.errors import UserError


def test_a_file_stands_on_its_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: tiny\nseed: 3\nfinetune: {augment: {erase: 0.5}}\n")
    tiny, mine = resolve("tiny"), resolve(config=file)
    finetune = dataclasses.replace(tiny.finetune, augment=dataclasses.replace(tiny.finetune.augment, erase=0.5))
    assert mine == dataclasses.replace(tiny, recipe=None, seed=3, finetune=finetune)
    # What is written and printed are plain values.
    assert "base" not in yaml.safe_load(as_yaml(mine))
    with pytest.raises(SystemExit):
        main(["fit", "digits", "--recipe", str(file), "--print_config"])
    assert "base" not in yaml.safe_load(capsys.readouterr().out)


def test_a_base_has_none_itself(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: lite-cifar10\n")
    with pytest.raises(UserError, match="base: lite-cifar10 has a base itself"):
        resolve(config=tmp_path / "mine.yaml")
    (tmp_path / "other.yaml").write_text("base: nothing\n")
    with pytest.raises(UserError, match="no recipe 'nothing'"):
        resolve(config=tmp_path / "other.yaml")


def test_names_of_earlier_versions_are_read(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("pretrain: {epochs: 7, mask_ratio: 0.5, normalise_targets: true}\n")
    old = resolve(config=file)
    assert (old.pretrain.epochs, old.mae.mask_ratio, old.mae.normalise_targets) == (7, 0.5, True)
    assert resolve(**{"pretrain.decode_share": 0.25}).mae.decode_share == 0.25


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", "holds no settings"),
        ("a: [", "not YAML"),
        ("a: &x {a: *x}", "Circular reference"),
        ("pretrain: &x {augment: *x}", "Circular reference"),
        ("seed: 2026-13-45", "month must be in"),
        # The last would be taken, and the first be dropped in silence.
        ("pretrain: {epochs: 3}\npretrain: {lr: 0.1}", "'pretrain' is there twice"),
    ],
)
def test_a_file_that_holds_no_settings_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        resolve(config=tmp_path / "bad.yaml")
    assert "\n" not in str(error.value)
    assert str(tmp_path / "bad.yaml") in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("flips", "expected"), [((True, True), "mirror"), ((False, True), "mirror"), ((False, False), "none")]
)
def test_a_run_of_an_earlier_version_keeps_its_mirrors(flips: tuple[bool, bool], expected: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    stages = ("pretrain", "finetune")
    values = {stage: {"augment": {"flip": flip, "erase": 0.1}} for stage, flip in zip(stages, flips, strict=True)}
    file.write_text(yaml.safe_dump({**values, "data": {"val_fraction": 0.3}}))
    made = resolve(config=file)
    assert (made.data.symmetry, made.data.val_fraction, made.pretrain.augment.erase) == (expected, 0.3, 0.1)
    with pytest.raises(UserError, match=r"augment.flip.*\(now --symmetry none, mirror or all\)"):
        resolve(**{"pretrain.augment.flip": True})
