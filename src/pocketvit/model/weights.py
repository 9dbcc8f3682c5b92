"""Weights in safetensors files that describe themselves: the metadata alone is enough to build the network again."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from pocketvit.config import PRESETS, ModelConfig, NetworkConfig, ResNetConfig
from pocketvit.data import Rendering
from pocketvit.errors import UserError
from pocketvit.files import write_whole
from pocketvit.model.mae import MaskedAutoencoder
from pocketvit.model.network import Network
from pocketvit.model.networks import NETWORKS
from pocketvit.model.timm import from_timm, to_timm
from pocketvit.model.vit import ViT, ViTShape

FILE = "model.safetensors"
KEY = "pocketvit"
NAMES = "names"  # "timm" where tensors have timm's
FORMAT = 1  # raise it when files would no longer load as they did
ENCODER = ("patch", "width", "depth", "heads", "mlp_ratio")  # sizes that an encoder's weights are of


@dataclass(frozen=True)
class WeightsMeta:
    """What a weights file says of itself.

    Args:
        kind: "mae", encoder and decoder, or "classifier", encoder and head.
        model: network sizes; the preset is resolved on the way in.
        network: what kind of classifier, one of NETWORKS.
        shape: image (height, width, channels).
        mean: of each channel, in units of [0, 1], that images were normalised with.
        std: as mean.
        classes: class names, in the order of the head's outputs.
        visible_discount: the masked autoencoder's (see `MaskedAutoencoder`).
        normalise_targets: as visible_discount.
        bits: that images of more than 8 bits make use of (see `pocketvit.data.Rendering`).
        background: grey value that transparent images are laid over.
        native: median (height, width) of what was learnt from, before it was scaled; None where not known.
        temperature: that the classifier's logits are divided by, for probabilities to mean what they say.
        source: fingerprint of the set that was learnt from (see `pocketvit.data.Dataset`); empty where not known.
        held_out: settings (SPLITTING) by which test and validation images were held out from it; None where not known.

    Raises:
        ValueError: parts that contradict each other.
        UserError: sizes that cannot be.
    """

    kind: Literal["mae", "classifier"]
    model: NetworkConfig
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = ()
    visible_discount: float = 0.0
    normalise_targets: bool = False
    bits: int = 16
    background: int = 255
    native: tuple[float, float] | None = None
    source: str = ""
    temperature: float = 1.0
    network: str = "vit"
    held_out: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", self.model.resolved())
        if not len(self.mean) == len(self.std) == self.shape[2]:
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations for {self.shape[2]} channels")
        if self.kind not in ("mae", "classifier") or (self.kind == "classifier" and not self.classes):
            raise ValueError(f"kind '{self.kind}' with {len(self.classes)} classes")

    @property
    def rendering(self) -> Rendering:
        """How images become 8 bits for it."""
        return Rendering(self.bits, self.background)

    def build(self) -> Network | MaskedAutoencoder:
        """The network, freshly initialised."""
        if self.kind == "mae":
            assert isinstance(self.model, ModelConfig)
            return MaskedAutoencoder(self.model, self.shape, self.visible_discount, self.normalise_targets)
        return NETWORKS[self.network].build(self.model, self.shape, len(self.classes))


def save(
    path: str | Path,
    module: Network | MaskedAutoencoder,
    meta: WeightsMeta,
    dtype: torch.dtype = torch.float32,
    timm: bool = False,
) -> None:
    """Write weights and metadata, in one step: a reader finds the old file or the new one, never a part.

    Args:
        path: the file, or an existing run directory.
        module: the network that `meta` describes.
        meta: goes into the file's metadata, under "pocketvit".
        dtype: what weights are stored as; loading makes them float32 again.
        timm: store a ViT's weights under timm's names; loading takes either.

    Raises:
        ValueError: `meta` describes another network.
        OSError: the file cannot be written; one that was there is left as it was.
    """
    file = weights_file(path)
    # What counts, as a batch norm does, stays an integer.
    state = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in module.state_dict().items()
    }
    with torch.device("meta"):
        described = meta.build().state_dict()
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in described.items()}:
        raise ValueError(f"the metadata does not describe this {type(module).__name__}: {meta}")
    about = {KEY: as_text(meta)}
    if timm:
        assert isinstance(meta.model, ModelConfig)
        state, about = to_timm(state, ViTShape.of(meta.model, meta.shape)), about | {NAMES: "timm"}
    write_whole(file, to_bytes(state, about))


def as_text(meta: WeightsMeta) -> str:
    """A description, as files hold it under KEY."""
    return json.dumps({"format": FORMAT, **dataclasses.asdict(meta)})


def from_text(text: str | None, file: Path) -> WeightsMeta:
    """From what `as_text` gave; raises UserError, naming the file, for nothing or anything else."""
    if text is None:
        raise UserError(f"{file}: no metadata of PocketViT's: give a file that PocketViT wrote")
    try:
        values: dict[str, Any] = json.loads(text)
        version = values.pop("format")
        if version != FORMAT:
            raise UserError(f"{file}: format {version}, and this PocketViT reads format {FORMAT}")
        tuples = {name: tuple(values[name]) for name in ("shape", "mean", "std", "classes")}
        if values.get("native"):  # older files have none
            tuples["native"] = tuple(values["native"])
        sizes = {"vit": ModelConfig, "resnet": ResNetConfig}[values.get("network", "vit")]  # older files have none
        return WeightsMeta(**values | tuples | {"model": sizes(**values["model"])})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: damaged metadata ({type(error).__name__}: {_line(error)})") from None


def load(path: str | Path) -> tuple[Network | MaskedAutoencoder, WeightsMeta]:
    """Build the network that a weights file holds, in float32 on the CPU.

    Args:
        path: a weights file, or a run directory with one.

    Raises:
        UserError: no such file, not safetensors, or not weights that PocketViT wrote.
    """
    state, meta = _read(path)
    with torch.device("meta"):  # nothing is drawn, so that loading leaves the random generators alone
        module = meta.build()
    module.to_empty(device="cpu")
    try:
        module.load_state_dict(state)
    except RuntimeError:
        raise UserError(f"{weights_file(path)}: the weights are not those that its metadata describes") from None
    return module, meta


def encoder_state(path: str | Path) -> tuple[dict[str, Tensor], WeightsMeta]:
    """State dict of the encoder alone, without a head, from weights of either kind.

    Args and Raises: as `load`.
    """
    state, meta = _read(path)
    if meta.kind == "mae":
        return {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}, meta
    return {k: v for k, v in state.items() if not k.startswith("head.")}, meta


def load_encoder(vit: ViT, path: str | Path) -> WeightsMeta:
    """Replace the weights of `vit`, but for its head, with those of a file of either kind.

    Args:
        vit: encoder or classifier of the same sizes as the file's.
        path: a weights file, or a run directory with one.

    Returns:
        What the file says of itself; `mean` and `std` are what the encoder is used to.

    Raises:
        UserError: as `load`, or weights of another kind of network, preset, image shape or patch.
    """
    state, meta = encoder_state(path)
    if not isinstance(meta.model, ModelConfig):
        raise UserError(
            f"{weights_file(path)}: weights of a {meta.model.preset}: only a ViT's can be started from, "
            "as those that a run of fit keeps in mae.safetensors"
        )
    saved, asked = ViTShape.of(meta.model, meta.shape), vit.shape
    if saved != asked:
        other = [f"--model.{name}" for name, size in _sizes(asked).items() if size != _sizes(saved)[name]]
        what, hint = "for other images", ""
        if other:
            what, hint = "of other sizes", f": leave {' and '.join(other)} out"
        if replace(saved, image=(*asked.image[:2], saved.image[2])) == asked:
            what, hint = "for another --size", ""
        elif replace(saved, image=asked.image) == asked:
            what, hint = f"for images of {saved.image[2]} channels, not {asked.image[2]}", ""
        elif replace(saved, image=asked.image, patch=asked.patch) == asked:
            what, hint = "with another --patch", ""
        raise UserError(
            f"{weights_file(path)}: weights {what}: the file has {_words(saved)}; asked for is {_words(asked)}{hint}"
        )
    head = {name: tensor for name, tensor in vit.state_dict().items() if name.startswith("head.")}
    try:
        vit.load_state_dict(state | head)
    except RuntimeError:
        raise UserError(f"{weights_file(path)}: the weights are not those that its metadata describes") from None
    return meta


def frozen_encoder(path: str | Path) -> Network:
    """The encoder alone, without a head, of weights of either kind. Args and Raises: as `load`."""
    module, _ = load(path)
    encoder = module.encoder if isinstance(module, MaskedAutoencoder) else module
    encoder.head, encoder.classes = nn.Identity(), 0
    return encoder


def weights_file(path: str | Path) -> Path:
    """The weights file itself, or that of a run directory."""
    path = Path(path)
    return path / FILE if path.is_dir() else path


def _read(path: str | Path) -> tuple[dict[str, Tensor], WeightsMeta]:
    file = weights_file(path)
    if not file.is_file():
        if Path(path).is_dir():
            raise UserError(f"{path}: no {FILE} in this directory: give a run directory whose run has finished")
        raise UserError(f"{path}: no such file: give a weights file or a run directory")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            # Tensors lie unaligned in the mapped file, and products may differ in the last bit for that: copy.
            state = {name: _widened(opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        words = "give a run directory or a weights file"
        raise UserError(f"{file}: not a safetensors file, or a damaged one ({_line(error)}): {words}") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {_line(error)}") from None
    if KEY not in metadata:
        raise UserError(f"{file}: safetensors without PocketViT's metadata: give weights that PocketViT saved")
    meta = from_text(metadata[KEY], file)
    if metadata.get(NAMES) == "timm" and isinstance(meta.model, ModelConfig):
        state = from_timm(state, ViTShape.of(meta.model, meta.shape))
    return state, meta


def _widened(tensor: Tensor) -> Tensor:
    """A copy, in float32 where it was of another floating type."""
    return tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _sizes(shape: ViTShape) -> dict[str, float]:
    """Those that presets name."""
    return {name: getattr(shape, name) for name in ENCODER}


def _preset(shape: ViTShape) -> str | None:
    """The preset that has these sizes."""
    sizes = _sizes(shape)
    return next((name for name, values in PRESETS.items() if sizes.items() <= values.items()), None)


def _words(shape: ViTShape) -> str:
    """The preset that has these sizes, and the sizes."""
    image = "x".join(map(str, shape.image))
    sizes = ", ".join(f"{name} {value}" for name, value in _sizes(shape).items())
    return f"{_preset(shape) or 'no preset'} ({image}, {sizes})"
