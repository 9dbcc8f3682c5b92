"""A trained model for whoever works in Python: images of any kind in; classes, probabilities and features out."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from pocketvit.data import Header, list_images, read_images
from pocketvit.edge.format import WITHOUT_FEATURES, FileRuntime
from pocketvit.edge.formats import runtime_of
from pocketvit.errors import UserError, speaking_python
from pocketvit.evaluation.predictor import Predictor
from pocketvit.model import weights
from pocketvit.model.network import Network
from pocketvit.model.weights import WeightsMeta
from pocketvit.training.device import make_accelerator
from pocketvit.verbs.models import Model, path_of
from pocketvit.verbs.strange import Strange

CHUNK = 512  # images that are decoded, and then computed, at a time

One = str | Path | Image.Image | NDArray[np.uint8]
Images = One | Sequence[One]


class Batch(NamedTuple):
    """Some of the images.

    Args:
        names: of all of them, files' or counts
        headers: what was told of each or, in words, why it cannot be decoded
        pixels: (N, H, W, C) of those that can be, as the model takes them
    """

    names: list[str]
    headers: list[Header | str]
    pixels: NDArray[np.uint8]


class TrainedModel:
    """A network that was trained, with all that it takes to use it: it pickles, and needs its run no more.

    Images are file names, folders, PIL images, arrays (H, W) or (H, W, C) of uint8 or, together, (N, H, W) or
    (N, H, W, C), or several of these in a list; all are scaled to the model's size.

    >>> import numpy as np, pocketvit as pv
    >>> run = pv.finetune("digits", epochs=1, seeds=1, labels_per_class=5, **{"finetune.min_steps": 5})
    >>> model = pv.load(run)
    >>> model.classes_[:3].tolist(), model.predict_proba(np.zeros((2, 8, 8), np.uint8)).shape
    (['0', '1', '2'], (2, 10))
    """

    def __init__(
        self,
        network: Network | Path,
        meta: WeightsMeta,
        device: str = "auto",
        runtime: type[FileRuntime] | None = None,
    ) -> None:
        self.meta, self.device, self._runtime = meta, device, runtime
        self._network = network.cpu().eval() if isinstance(network, Network) else network

    @property
    def classes_(self) -> NDArray[np.str_]:
        """(K,) names, in the order of the probabilities' columns; of an encoder alone, those of its set."""
        return np.array(self.meta.classes, dtype=np.str_)

    @property
    def width(self) -> int:
        """D, of the features. Raises UserError for an exported file, which has none."""
        if isinstance(self._network, Path):
            raise UserError(f"{self._network}: {WITHOUT_FEATURES}")
        return self._network.width

    def predict(self, images: Images) -> NDArray[np.str_]:
        """(N,) names of the likeliest classes. Raises UserError for an encoder alone, and as `batches`."""
        return self.classes_[self.predict_proba(images).argmax(axis=1)]

    @speaking_python
    def predict_proba(self, images: Images) -> NDArray[np.float32]:
        """(N, K) calibrated probabilities. Raises as `predict`."""
        self.check_classifies()
        return self._of_all(images, self.predictor().probabilities)

    @speaking_python
    def embed(self, images: Images) -> NDArray[np.float32]:
        """(N, D) features: what the head reads. Raises UserError as `batches`."""
        return self._of_all(images, self.predictor().features)

    def _of_all(
        self, images: Images, answer: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """What `answer` gives for each batch, in one; warns of images that are unlike those of training."""
        strange, answers = Strange(), []
        for batch in self.batches(images):
            strange.add(batch.pixels, batch.headers, self.meta)
            answers.append(answer(batch.pixels))
        strange.warn()
        return np.concatenate(answers)

    def predictor(self) -> Predictor:
        """Of the network, on its device; of an exported file, by its runtime."""
        if isinstance(self._network, Path):
            assert self._runtime is not None
            return Predictor(self._runtime(self._network), self.meta.shape, self.meta.classes, self.meta.temperature)
        return Predictor.of(self._network, self.meta, make_accelerator(self.device, "float32").device)

    def check_classifies(self) -> None:
        """Raise UserError for an encoder alone."""
        if isinstance(self._network, Network) and not self._network.classes:
            raise UserError("pre-trained weights have no classifier: run finetune with init first")

    def batches(self, images: Images, skip_bad: bool = False, progress: bool = False) -> Iterator[Batch]:
        """Decode images, some at a time; with `progress`, a bar on stderr where that is a terminal.

        Raises:
            UserError: no images; a file that is none; or, without `skip_bad`, one that cannot be decoded.
        """
        (height, width, channels), rendering = self.meta.shape, self.meta.rendering
        every = list(_named(images))
        bar = Console(stderr=True)
        named = iter(track(every, "images", console=bar, transient=True, disable=not progress or not bar.is_terminal))
        while some := list(islice(named, CHUNK)):
            names = [name for name, _ in some]
            pixels, headers = read_images([content for _, content in some], (height, width), channels, rendering)
            bad = next(((n, h) for n, h in zip(names, headers, strict=True) if isinstance(h, str)), None)
            if bad and not skip_bad:
                name, reason = bad
                hint = "mend it, or give --skip-bad to go on without it"
                raise UserError(f"{name}: cannot be decoded ({reason}): {hint}")
            yield Batch(names, headers, pixels)

    def __repr__(self) -> str:
        height, width, channels = self.meta.shape
        classes = f"{len(self.meta.classes)} classes" if self.meta.classes else "an encoder"
        return f"<{type(self).__name__}: {self.meta.model.preset}, images of {width}x{height}x{channels}, {classes}>"


def load(model: Model, device: str = "auto", runtime: str | None = None) -> TrainedModel:
    """A model from a run, a weights file, an exported file or a shipped model's name.

    Of pre-trained weights, it is the encoder.

    Args:
        model: any of these.
        device: auto, cpu, cuda or mps; exported files run on the CPU.
        runtime: of an exported file: "onnxruntime", "openvino" or "executorch"; None takes what its name asks for.

    Raises:
        UserError: no such model, no such device, or a runtime that is not installed or does not read such files.
    """
    if found := runtime_of(file := path_of(model), runtime):
        return TrainedModel(file.resolve(), found(file, 1).meta, device, found)
    network, meta = weights.load(path_of(model))
    if not isinstance(network, Network):
        network, meta = weights.frozen_encoder(path_of(model)), weights.encoder_state(path_of(model))[1]
    return TrainedModel(network, meta, device)


def _named(images: Images) -> Iterable[tuple[str, Any]]:
    """Names and contents, one image each."""
    if isinstance(images, (str, os.PathLike)):
        return [(str(file), file) for file in list_images(images)]
    if isinstance(images, Image.Image):
        return [("image 0", _encoded(images))]
    if isinstance(images, np.ndarray):
        return [(f"image {number}", one) for number, one in enumerate(_arrays(images))]
    if not isinstance(images, Iterable):
        raise UserError(f"an image of type {type(images).__name__}: expected file names, arrays or PIL images")
    many = list(images)
    if not many:
        raise UserError("no images: give some")
    found = [pair for one in many for pair in _named(one)]
    named = all(isinstance(one, (str, os.PathLike)) for one in many)
    return found if named else [(f"image {number}", content) for number, (_, content) in enumerate(found)]


def _arrays(images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Images (H, W, C) of an array: of one image where it has two axes, or three with the last one a colour's."""
    if images.dtype != np.uint8:
        raise UserError(f"images of {images.dtype}: expected uint8, from 0 to 255")
    if images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (1, 3) and images.shape[1] > 3):
        images = images[None]
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise UserError(f"an array of shape {images.shape}: expected (N, H, W) or (N, H, W, C) with 1 or 3 channels")
    return list(images)


def _encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    try:
        image.save(stream, "TIFF" if image.mode in ("CMYK", "YCbCr", "LAB", "F") else "PNG")
    except OSError:
        raise UserError(f"a PIL image of mode {image.mode}: convert it to RGB or L first") from None
    return stream.getvalue()
