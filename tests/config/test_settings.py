"""Settings: what wins over what, and what is refused, in one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pocketvit.cli import main
from pocketvit.config import (
    AugmentConfig,
    DataConfig,
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    Settings,
    as_yaml,
    default_recipe,
    recipe_path,
    resolve,
)
from pocketvit.config.fields import described
from pocketvit.config.parsing import boolean_settings
from pocketvit.errors import UserError

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 1\npretrain: {lr: 0.25, batch_size: 11, augment: {rotate: 5}}\n")
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("pretrain: {lr: 0.5, clip: 3.0}\n")
    return path


def printed(args: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What --print_config says of a command line."""
    with pytest.raises(SystemExit) as stopped:
        main([*args, "--print_config"])
    assert stopped.value.code in (0, None)
    values: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return values


def refused(**overrides: object) -> str:
    with pytest.raises(UserError) as error:
        resolve(**overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_each_source_of_settings_wins_over_the_one_before(recipe: Path, config: Path) -> None:
    plain = Settings().pretrain
    from_recipe = resolve(str(recipe))
    from_config = resolve(str(recipe), config)
    from_flag = resolve(str(recipe), config, lr=0.75)
    assert [s.pretrain.lr for s in (from_recipe, from_config, from_flag)] == [0.25, 0.5, 0.75]
    assert plain.lr not in (0.25, 0.5, 0.75)
    # What a later one does not name stays: the recipe's batch size, the file's clipping, the default's momentum.
    kept = from_flag.pretrain
    assert (from_flag.seed, kept.batch_size, kept.clip, kept.beta2) == (1, 11, 3.0, plain.beta2)
    assert kept.augment == dataclasses.replace(plain.augment, rotate=5.0)


def test_the_command_line_has_the_same_order(recipe: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The recipe comes first wherever it stands.
    args = ["pretrain", "digits", f"--config={config}", f"--recipe={recipe}"]
    values = printed(args, capsys)["pretrain"]
    assert isinstance(values, dict)
    assert (values["lr"], values["batch_size"]) == (0.5, 11)
    values = printed([*args, "--lr", "0.75"], capsys)["pretrain"]
    assert isinstance(values, dict)
    assert values["lr"] == 0.75


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_resolves(path: Path) -> None:
    settings = resolve(path.stem)
    assert settings.recipe == path.stem
    # A key that the dataclasses lacked would have been refused; one that changes nothing would be noise.
    assert dataclasses.replace(settings, recipe=None) != Settings()


@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
@pytest.mark.parametrize(("preset", "size"), [("lite", None), ("paper", 36)])
def test_recipes_for_cifar_hold_what_was_measured_with_them(preset: str, size: int | None, data: str) -> None:
    # Written out, as each of them was before they had a base; published results are of these settings.
    before = resolve(config=Path(__file__).with_name("cifar.yaml"), preset=preset, size=size)
    recipe = f"{preset}-{data}"
    assert resolve(recipe) == dataclasses.replace(before, recipe=recipe)


def test_there_are_recipes_to_test() -> None:
    cifar = {f"{preset}-{data}" for preset in ("lite", "paper") for data in ("cifar10", "cifar100")}
    assert {path.stem for path in RECIPES} >= {"digits", "lite", "paper", "tiny"} | cifar


def test_a_recipe_may_be_a_file_of_ones_own(recipe: Path) -> None:
    assert recipe_path(str(recipe)) == recipe


@pytest.mark.parametrize(("name", "hint"), [("nope", ""), ("nope.yaml", ""), ("../digits", " (did you mean digits?)")])
def test_an_unknown_recipe_is_refused_with_those_there_are(name: str, hint: str) -> None:
    assert refused(recipe=name).startswith(
        f"--recipe: no recipe '{name}'{hint}: use one of cifar, digits, lite, lite-cifar10, "
    )


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("epocs", "--epochs"),
        ("pretrain.epocs", "--pretrain.epochs"),
        ("mask_ratoi", "--mask-ratio"),
        ("labels-per-clas", "--labels-per-class"),
        ("finetune.freeze_encodr", "--finetune.freeze_encoder"),
        ("min_steps", "--finetune.min_steps"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(key: str, suggestion: str) -> None:
    message = refused(**{key: 1})
    assert f"(did you mean {suggestion}?)" in message
    assert key.replace("-", "_") in message.replace("-", "_")


def test_an_unknown_key_like_nothing_gets_no_suggestion() -> None:
    message = refused(zzzzqqq=1)
    assert "zzzzqqq" in message
    assert "did you mean" not in message


def test_an_unknown_key_in_a_file_is_refused_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("pretrain: {epocs: 3}\n")
    message = refused(config=path)
    assert "'epocs'" in message
    assert "(did you mean epochs?)" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", "many"),
        ("epochs", 1.5),
        ("lr", [1, 2]),
        ("device", "toaster"),
        ("preset", "huge"),
        ("skip_bad", "perhaps"),
        ("pretrain.optimizer", "sgd"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(key: str, value: object) -> None:
    assert key in refused(**{key: value})


@pytest.mark.parametrize("text", ["pretrain: [1", "- a\n- list\n", "pretrain: 5\n", "pretrain: null\n", "\x00"])
def test_a_file_that_is_no_settings_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert refused(config=path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "gone.yaml" in refused(config=tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("seeds", 0, "at least 1"),
        ("seed", -1, "from 0 to 4,000,000,000"),
        ("data.split_seed", 1_764_196_943_123_456_789, "from 0 to 4,000,000,000"),  # a time in nanoseconds
        ("pretrain.epochs", 0, "at least 1"),
        ("finetune.epochs", -3, "at least 1"),
        ("pretrain.batch_size", 0, "at least 1"),
        ("mae.mask_ratio", 1.5, "from 0 to 1"),
        ("mae.mask_ratio", -0.1, "from 0 to 1"),
        ("finetune.lr", -1e-3, "at least 0"),
        ("finetune.lr_base_size", -256, "at least 0"),
        ("finetune.drop_path", 1.0, "at least 0 and below 1"),
        ("pretrain.augment.rotate", 180.5, "from 0 to 180"),
        ("finetune.augment.shift", -0.5, "from 0 to 1"),
        ("finetune.beta2", 1.0, "at least 0 and below 1"),
        ("pretrain.augment.crop_scale", 0.0, "above 0 and at most 1"),
        ("mae.decode_share", 0.0, "above 0 and at most 1"),
        ("mae.decode_share", 1.5, "above 0 and at most 1"),
        ("contrast.temperature", 0.0, "above 0"),
        ("contrast.weight", -0.1, "at least 0"),
        ("finetune.label_smoothing", 2.0, "from 0 to 1"),
        ("data.label_fraction", 0.0, "above 0 and at most 1"),
        ("data.label_fraction", 1.1, "above 0 and at most 1"),
        ("model.depth", 0, "at least 1"),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_flag(key: str, value: float, expected: str) -> None:
    assert refused(**{key: value}) == f"--{key}: {value} is out of range: expected {expected}"


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_weights_are_averaged_once(stage: str) -> None:
    assert refused(**{f"{stage}.optimizer": "schedule-free", f"{stage}.ema": 0.9}) == (
        f"--{stage}.ema: 0.9 beside --{stage}.optimizer schedule-free, which averages the weights itself: "
        f"add --{stage}.ema 0"
    )


def test_a_frozen_encoder_reconstructs_nothing() -> None:
    message = refused(**{"finetune.reconstruction": 1.0, "finetune.freeze_encoder": True})
    assert "--finetune.reconstruction" in message
    assert "--finetune.freeze_encoder" in message


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_ends_of_a_closed_range_are_in_it(value: float) -> None:
    assert resolve(mask_ratio=value).mae.mask_ratio == value


@pytest.mark.parametrize(
    ("size", "shape"), [(None, None), (36, (36, 36)), ("36", (36, 36)), ("28x40", (28, 40)), ("28X40", (28, 40))]
)
def test_the_grammar_of_sizes(size: int | str | None, shape: tuple[int, int] | None) -> None:
    assert DataConfig(size=size).shape == shape
    assert resolve(size=size).data.shape == shape


@pytest.mark.parametrize("size", ["big", "0", "0x8", "8x", "x8", "8x8x3", "-8", "8.5", "", "²"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(UserError, match=r"--size: .* is neither a side"):
        DataConfig(size=size)


@pytest.mark.parametrize(
    ("value", "budgets"), [("all", (None,)), (5, (5,)), ("5", (5,)), ("5,all", (5, None)), ("1, 10 ,100", (1, 10, 100))]
)
def test_the_grammar_of_label_budgets(value: int | str, budgets: tuple[int | None, ...]) -> None:
    assert DataConfig(labels_per_class=value).label_budgets == budgets
    assert resolve(labels_per_class=value).data.label_budgets == budgets


@pytest.mark.parametrize("value", ["0", "few", "5,", "-1", "1.5", ""])
def test_what_is_no_label_budget_is_refused(value: str) -> None:
    with pytest.raises(UserError, match=r"--labels-per-class: .* is neither a count"):
        DataConfig(labels_per_class=value)


@pytest.mark.parametrize("value", [5, "5,all", "all,all"])
def test_counts_and_a_fraction_of_labels_exclude_each_other(value: int | str) -> None:
    with pytest.raises(UserError, match="exclude each other"):
        DataConfig(labels_per_class=value, label_fraction=0.5)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 10, "heads": 3}, "--model.heads 3 does not divide --model.width 10"),
        ({"decoder_width": 10, "decoder_heads": 3}, "--model.decoder_heads 3 does not divide"),
        ({"depth": 0}, "--model.depth: 0 "),
        ({"patch": -1}, "--model.patch: -1 "),
        ({"decoder_depth": -1}, "--model.decoder_depth: -1 "),
        ({"decoder_depth": 0, "decoder_attention": "cross"}, "--model.decoder_depth: 0 "),
        ({"mlp_ratio": 0.0}, "--model.mlp_ratio: 0.0 "),
        ({"mlp_ratio": -2.0}, "--model.mlp_ratio: -2.0 "),
        ({"mlp_ratio": 0.001}, "--model.mlp_ratio: 0.001 "),
    ],
)
def test_networks_that_cannot_be_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        ModelConfig(**sizes)
    assert str(error.value).startswith(message)


def test_a_decoder_without_layers_can_be() -> None:
    assert ModelConfig(decoder_depth=0).sizes().decoder_depth == 0


def test_a_size_beside_a_preset_wins_over_it() -> None:
    sizes = ModelConfig(preset="tiny", depth=3).sizes()
    assert (sizes.depth, sizes.width) == (3, 128)


def test_yaml_of_settings_reads_back(tmp_path: Path, recipe: Path) -> None:
    settings = resolve(str(recipe), labels_per_class="5,all", size="8x16", **{"finetune.augment.policy": "randaugment"})
    path = tmp_path / "all.yaml"
    path.write_text(as_yaml(settings))
    assert resolve(str(recipe), path) == settings


def test_print_config_reads_back_as_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = printed(["fit", "digits", "--mask-ratio", "0.6", "--seeds", "7", "--size", "8x12"], capsys)
    path = tmp_path / "printed.yaml"
    path.write_text(yaml.safe_dump(first))
    again = printed(["fit", "digits", "--config", str(path)], capsys)
    settings = {f.name for f in dataclasses.fields(Settings)}
    assert settings <= first.keys()
    assert {k: first[k] for k in settings} == {k: again[k] for k in settings}
    assert first["mae"]["mask_ratio"] == 0.6


@pytest.mark.parametrize("flag", ["--batch-size 7", "--batch_size 7", "--batch-size=7", "--pretrain.batch-size 7"])
def test_hyphens_and_underscores_are_alike(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    values = printed(["pretrain", "digits", *flag.split()], capsys)["pretrain"]
    assert isinstance(values, dict)
    assert values["batch_size"] == 7


@pytest.mark.parametrize(("verb", "stage"), [("fit", "pretrain"), ("pretrain", "pretrain"), ("finetune", "finetune")])
def test_flat_names_mean_the_stage_of_the_verb(verb: str, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    values = printed([verb, "digits", "--epochs", "77"], capsys)
    epochs = {name: values[name]["epochs"] == 77 for name in ("pretrain", "finetune")}
    assert epochs == {name: name == stage for name in ("pretrain", "finetune")}


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_each_stage_has_its_optimizer(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    values = printed(["fit", "digits", f"--{stage}.optimizer", "schedule-free"], capsys)
    found = {name: values[name]["optimizer"] for name in ("pretrain", "finetune")}
    assert found == {"pretrain": "adamw", "finetune": "adamw", stage: "schedule-free"}


@pytest.mark.parametrize(("data", "recipe"), [([], "digits"), (["digits"], "digits"), (["photos"], "tiny")])
def test_the_data_choose_the_recipe_that_is_not_named(
    data: list[str], recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a CPU; lite, which takes it hours, is for a GPU."""
    assert default_recipe("photos", "cuda") == "lite"
    data = [*data, "--device=cpu"]
    assert printed(["fit", *data, "--epochs", "3"], capsys)["recipe"] == recipe


@pytest.mark.parametrize("text", ["pretrain: {lr: null}", "model: {preset: null}", "data: {val_fraction: }", "seed:"])
def test_a_key_without_a_value_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        resolve(config=tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataConfig(val_fraction=7), "--data.val_fraction: 7 is out of range: expected above 0 and below 1"),
        (lambda: DataConfig(val_fraction="a"), "--data.val_fraction: 'a' is not valid: expected a number"),
        (lambda: DataConfig(images=1.5), "--data.images: '1.5' is not valid: expected a whole number or null"),
        (lambda: DataConfig(group_by="("), "--group-by '(': not a regular expression"),
        (
            lambda: DataConfig(labels_per_class="zero"),
            "--labels-per-class: 'zero' is neither a count",
        ),
        (lambda: DataConfig(size="x"), "--size: 'x' is neither a side"),
        (lambda: DataConfig(split_seed=None), "--data.split_seed: has no value"),
        (lambda: DataConfig(skip_bad="x"), "--data.skip_bad: 'x' is not valid: expected true or false"),
        (lambda: DataConfig(symmetry="x"), "--data.symmetry: 'x' is not valid: expected one of none, mirror, all"),
        (lambda: AugmentConfig(erase=True), "--augment.erase: 'True' is not valid: expected a number"),
        (
            lambda: AugmentConfig(policy="x"),
            "--augment.policy: 'x' is not valid: expected one of none, randaugment, trivialaugment",
        ),
        (lambda: PretrainConfig(augment="x"), "--pretrain.augment: 'x' is not valid: expected AugmentConfig"),
        (lambda: AugmentConfig(crop_scale=2.0), "--augment.crop_scale: 2.0 is out of range"),
        (lambda: FinetuneConfig(drop_path=1.0), "--finetune.drop_path: 1.0 is out of range"),
        (lambda: dataclasses.replace(PretrainConfig(), epochs=0), "--pretrain.epochs: 0 is out of range"),
    ],
)
def test_settings_are_checked_when_they_are_made(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value).startswith(message)


def test_numbers_of_numpy_are_numbers() -> None:
    assert DataConfig(images=np.int64(7), val_fraction=np.float32(0.5)).images == 7


def test_every_setting_is_described_where_it_stands() -> None:
    texts = {setting.flag: setting.text for setting in described(Settings)}
    assert len(texts) > 80
    assert min(len(text) for text in texts.values()) > 5
    assert {"data.size", "mae.mask_ratio", "pretrain.augment.erase", "finetune.scratch_rate"} <= texts.keys()


def test_booleans_are_known_by_their_types(capsys: pytest.CaptureFixture[str]) -> None:
    flags = boolean_settings()
    assert "--finetune.freeze_encoder" in flags
    assert "--data.skip_bad" in flags
    assert "--data.val_fraction" not in flags
    values = printed(["fit", "digits", "--shard", "--data.skip-bad", "--mae.normalise_targets"], capsys)
    assert (values["shard"], values["data"]["skip_bad"], values["mae"]["normalise_targets"]) == (True, True, True)
