"""Weights files: every bit comes back, from the file alone; other files and other networks are refused in one line."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pocketvit.config import ModelConfig
from pocketvit.errors import UserError
from pocketvit.model import MaskedAutoencoder, ViT, ViTShape, WeightsMeta, encoder_state, load_encoder
from pocketvit.model.network import Network
from pocketvit.model.weights import load, save

SMALL = ModelConfig("digits", depth=2, patch=2, pool="mean")
SHAPE = (8, 6, 2)
COMMON: dict[str, Any] = {"model": SMALL, "shape": SHAPE, "mean": (0.1, 1 / 3), "std": (0.2, 0.7)}
METAS = {
    "classifier": WeightsMeta("classifier", **COMMON, classes=("zero", "ünï/cöde", "")),
    "mae": WeightsMeta("mae", **COMMON, visible_discount=0.1, normalise_targets=True),
}


@pytest.fixture(params=METAS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Network | MaskedAutoencoder, WeightsMeta]:
    """A run directory with weights, and what was saved there."""
    meta = METAS[request.param]
    module = meta.build()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
    save(tmp_path, module, meta)
    return tmp_path, module, meta


def refused(path: Path, match: str) -> None:
    """Every reader refuses the path, in one line that begins with it."""
    for read in (load, encoder_state, lambda p: load_encoder(ViT(ViTShape.of(SMALL, SHAPE)), p)):
        with pytest.raises(UserError, match=match) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_weights_come_back_from_the_file_alone(saved: tuple[Path, Network | MaskedAutoencoder, WeightsMeta]) -> None:
    run, module, meta = saved
    assert [file.name for file in run.iterdir()] == ["model.safetensors"]
    state = torch.random.get_rng_state()
    for path in (run, str(run / "model.safetensors")):
        again, found = load(path)
        assert found == meta
        assert type(again) is type(module)
        assert again.state_dict().keys() == module.state_dict().keys()
        assert all(torch.equal(again.state_dict()[k], v) for k, v in module.state_dict().items())
        assert all(p.requires_grad and p.device.type == "cpu" for p in again.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    images = torch.randn(2, 2, 8, 6)
    if isinstance(module, ViT):
        assert torch.equal(again(images), module(images))
    else:
        noise = torch.rand(2, 12)
        assert torch.equal(again(images, noise=noise).loss, module(images, noise=noise).loss)


def test_the_metadata_is_plain_json(saved: tuple[Path, Network | MaskedAutoencoder, WeightsMeta]) -> None:
    run, _, meta = saved
    with safe_open(run / "model.safetensors", framework="pt") as file:
        written = json.loads(file.metadata()["pocketvit"])
    assert written["format"] == 1
    assert written["kind"] == meta.kind
    assert written["shape"] == [8, 6, 2]
    assert written["mean"] == [0.1, 1 / 3]
    assert written["classes"] == list(meta.classes)
    assert written["model"] == dataclasses.asdict(SMALL.resolved())
    assert None not in written["model"].values()


def test_weights_stored_in_float16_come_back_in_float32(tmp_path: Path) -> None:
    meta = METAS["classifier"]
    module = meta.build()
    save(tmp_path, module, meta, torch.float16)
    for state in (load(tmp_path)[0].state_dict(), encoder_state(tmp_path)[0]):
        for name, tensor in state.items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, module.state_dict()[name].half().float())


@pytest.mark.parametrize(("preset", "side"), [("paper", 36), ("lite", 32)])
def test_a_model_to_ship_takes_under_8_mb(tmp_path: Path, preset: Any, side: int) -> None:
    names = tuple(f"class {i}" for i in range(100))
    meta = WeightsMeta("classifier", ModelConfig(preset), (side, side, 3), (0.5,) * 3, (0.2,) * 3, names)
    save(tmp_path, meta.build(), meta, torch.float16)
    assert (tmp_path / "model.safetensors").stat().st_size < 8e6


def test_an_encoder_moves_into_a_classifier(saved: tuple[Path, Network | MaskedAutoencoder, WeightsMeta]) -> None:
    run, module, meta = saved
    encoder = module if isinstance(module, ViT) else module.encoder
    state, found = encoder_state(run)
    assert found == meta
    assert not any(name.startswith("head.") for name in state)
    classifier = ViT(ViTShape.of(SMALL, SHAPE), classes=5, drop_path=0.1)
    head = classifier.head.weight.clone()
    assert load_encoder(classifier, run) == meta
    images = torch.randn(2, 2, 8, 6)
    assert torch.equal(classifier.eval().encode(images), encoder.encode(images))
    assert torch.equal(classifier.head.weight, head)


def test_weights_of_another_preset_are_refused(tmp_path: Path) -> None:
    meta = WeightsMeta("mae", ModelConfig("paper"), (36, 36, 3), (0.5,) * 3, (0.2,) * 3)
    save(tmp_path / "a.safetensors", meta.build(), meta)
    lite = ViT(ViTShape.of(ModelConfig("lite"), (32, 32, 3)), classes=10)
    before = {name: tensor.clone() for name, tensor in lite.state_dict().items()}
    with pytest.raises(UserError, match="weights with another --patch") as caught:
        load_encoder(lite, tmp_path / "a.safetensors")
    message = str(caught.value)
    assert "\n" not in message
    assert "paper (36x36x3, patch 3, " in message
    assert "lite (32x32x3, patch 4, " in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in lite.state_dict().items())
    gray = ViT(ViTShape.of(ModelConfig("paper", depth=3), (36, 36, 1)))
    with pytest.raises(
        UserError,
        match=r"of other sizes: .* asked for is no preset \(36x36x1, patch 3, width 192, .*leave --model.*depth",
    ):
        load_encoder(gray, tmp_path / "a.safetensors")
    for words, preset, shape in (
        ("another --size", {}, (39, 36, 3)),
        ("another --patch", {"patch": 4}, (36, 36, 3)),
        ("images of 3 channels, not 1", {}, (36, 36, 1)),
    ):
        with pytest.raises(UserError, match=f"a.safetensors: weights (for|with) {words}: "):
            load_encoder(ViT(ViTShape.of(ModelConfig("paper", **preset), shape)), tmp_path / "a.safetensors")


def test_missing_files_are_named(tmp_path: Path) -> None:
    refused(tmp_path / "absent.safetensors", "no such file")
    refused(tmp_path, "no model.safetensors in this directory")


@pytest.mark.parametrize("content", [b"", b"no", b"\x80\x02}q\x00." * 50, b"\x02" + b"\0" * 7 + b"{"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.bin").write_bytes(content)
    refused(tmp_path / "other.bin", "not a safetensors file")


def test_truncated_files_are_refused(saved: tuple[Path, Network | MaskedAutoencoder, WeightsMeta]) -> None:
    file = saved[0] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(file, "not a safetensors file, or a damaged one")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_safetensors_of_others_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors", metadata)
    refused(tmp_path / "other.safetensors", "without PocketViT's metadata")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": 2}, "format 2, and this PocketViT reads format 1"),
        ({"kind": "gan"}, "damaged metadata"),
        ({"mean": [0.5]}, "damaged metadata"),
        ({"shape": None}, "damaged metadata"),
        ({"model": {"colour": 1}}, "damaged metadata"),
        ({"colour": 1}, "damaged metadata"),
    ],
)
def test_metadata_that_cannot_be_read_is_refused(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    meta = {"format": 1, **dataclasses.asdict(METAS["mae"])} | change
    save_file({"weight": torch.zeros(2)}, tmp_path / "a.safetensors", {"pocketvit": json.dumps(meta)})
    refused(tmp_path / "a.safetensors", match)


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "null"])
def test_metadata_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "a.safetensors", {"pocketvit": text})
    refused(tmp_path / "a.safetensors", "damaged metadata")


def test_tensors_that_the_metadata_does_not_describe_are_refused(tmp_path: Path) -> None:
    meta = {"format": 1, **dataclasses.asdict(METAS["mae"])}
    save_file({"encoder.weight": torch.zeros(2)}, tmp_path / "a.safetensors", {"pocketvit": json.dumps(meta)})
    with pytest.raises(UserError, match="not those that its metadata describes"):
        load(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="not those that its metadata describes"):
        load_encoder(ViT(ViTShape.of(SMALL, SHAPE)), tmp_path / "a.safetensors")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = METAS["mae"]
    save(tmp_path, meta.build(), meta)
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        save(tmp_path, meta.build(), meta)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.safetensors", before)]


def test_metadata_of_another_network_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not describe this ViT"):
        save(tmp_path, METAS["classifier"].build(), METAS["mae"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("preset", "side"), [("paper", 36), ("lite", 32)])
def test_no_convolution_anywhere(preset: Any, side: int) -> None:
    state = MaskedAutoencoder(ModelConfig(preset), (side, side, 3)).state_dict()
    assert max(tensor.ndim for tensor in state.values()) <= 3  # the embeddings; a convolution's kernel has 4
