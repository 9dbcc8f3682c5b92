"""What every kind of exported file has in common: how it is written, and what runs it."""

from __future__ import annotations

import io
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from pocketvit.data import Dataset
from pocketvit.edge.deployed import Deployed
from pocketvit.errors import UserError
from pocketvit.model.network import Network
from pocketvit.model.weights import WeightsMeta

Ports = Mapping[str, Sequence[Any]]
INPUT, OUTPUTS = "pixels", Deployed.outputs
WITHOUT_FEATURES = "an exported file has logits and no features: give the run that it came from"
ANEW = "write it anew with `export`"
BATCH = 256  # images that are computed at a time, where a file takes any number


class FileRuntime(Protocol):
    """Runs a file (see `pocketvit.evaluation.predictor.Runtime`), on one thread for each core or as many as given.

    Making one raises UserError: no such file, not one of this kind, or an extra that is missing.
    """

    reads: ClassVar[tuple[str, ...]]
    """Suffixes of the files that it reads."""
    meta: WeightsMeta
    """What the file says of itself."""

    def __init__(self, file: Path, threads: int = 0) -> None: ...

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, H, W, C) to (N, K). Raises `CannotRun` where this machine cannot run the file."""

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, D): what the head reads. UserError where the file has none."""


class Format(ABC):
    """A kind of file."""

    suffix: ClassVar[str]
    runtime: ClassVar[type[FileRuntime]]
    """Reads what is written."""
    int8: ClassVar[bool] = False
    """Whether it can be written in int8."""

    @classmethod
    @abstractmethod
    def write(
        cls, file: Path, network: Network, meta: WeightsMeta, calibration: NDArray[np.uint8] | None = None
    ) -> None:
        """Write a classifier in float32 or, with train images (N, H, W, C) to calibrate by, in int8.

        Raises UserError: an extra that is missing, or a network that has no place in such a file.
        """

    @staticmethod
    @abstractmethod
    def about(meta: WeightsMeta) -> str:
        """What its card says of inputs and outputs: items of a list in Markdown."""

    @staticmethod
    @abstractmethod
    def loading(name: str, meta: WeightsMeta) -> str:
        """What its card says of loading the file of that name: Python, from `image`, a PIL image of the size.

        Empty where Python has no part in it.
        """

    @staticmethod
    def precision(file: Path) -> str:
        """What a file, written as this kind, multiplies in: "float32" or "int8"."""
        return "float32"

    @staticmethod  # noqa: B027  # most have nothing to do
    def finish(file: Path, network: Network, meta: WeightsMeta, dataset: Dataset, found: dict[str, Any]) -> None:
        """Make of a file that is verified what is kept; most are that already.

        Args:
            file: to be replaced where it is.
            network: that was written.
            meta: that describes it.
            dataset: that it learnt from.
            found: of the verification, and "int8".
        """


class CannotRun(UserError):
    """This machine cannot run a file that is as it should be."""


class LogitsOnly:
    """What exported files have in common: no features."""

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """None are in such a file."""
        raise UserError(WITHOUT_FEATURES)


def about_pixels(meta: WeightsMeta, number: str = "any N") -> str:
    """What a card says of a file with normalisation and temperature inside."""
    height, width, channels = meta.shape
    return f"""- Input `{INPUT}`: uint8 (N, {channels}, {height}, {width}), from 0 to 255, {number}. Other sizes are
  scaled to this one first, by Pillow's bicubic filter; nothing else is done to them: normalisation is inside.
- Outputs `{OUTPUTS[0]}` and `{OUTPUTS[1]}`, both (N, {len(meta.classes)}), the latter
  {about_calibration(meta)}."""


def about_calibration(meta: WeightsMeta) -> str:
    """What a card says of probabilities."""
    return f"calibrated (temperature {meta.temperature:.3f})" if meta.temperature != 1 else "not calibrated"


def module(name: str, extra: str) -> Any:
    """A module of an extra; UserError where it is missing."""
    try:
        with quiet():
            return import_module(name)
    except ImportError:
        raise UserError(f'{name} is not installed: pip install "pocketvit[{extra}]"') from None


def planar(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, H, W, C) to (N, C, H, W), as files take them."""
    return np.ascontiguousarray(np.moveaxis(images, 3, 1))


def batches(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """(N, H, W, C) in parts, as files take them."""
    pixels = planar(images)
    return (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))


def check_file(file: Path) -> None:
    """Raise UserError where there is none."""
    if not file.is_file():
        raise UserError(f"{file}: no such file: give one that `export` wrote")


def check_ports(file: Path, meta: WeightsMeta, given: Ports, found: Ports) -> None:
    """Raise UserError where a file does not take and give what it says of itself.

    Args:
        file: that was read.
        meta: what it says.
        given: names and shapes of its inputs; what is no number there is a size that is free.
        found: those of its outputs.
    """
    height, width, channels = meta.shape
    expected = [(INPUT, (channels, height, width)), *((name, (len(meta.classes),)) for name in OUTPUTS)]
    for (name, sizes), ports in zip(expected, (given, found, found), strict=True):
        if name not in ports or tuple(ports[name])[1:] != sizes:
            words = f"of shape {tuple(ports[name])}" if name in ports else "missing"
            shape = ", ".join(map(str, ("N", *sizes)))
            raise UserError(f"{file}: its `{name}` is {words}, where its metadata say ({shape}): export it again")


def first_line(error: Exception) -> str:
    """What an error says first."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Exporters, quantisers and runtimes log, warn and draw bars of what is no news to whoever uses them."""
    before = logging.root.manager.disable  # one may be within another
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
