"""A classifier as one HTML page: model, runtime and sample images are inside it, and it opens from disk offline."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from pocketvit.config import ModelConfig
from pocketvit.data import Dataset
from pocketvit.edge.deployed import Deployed, Encoder, Layer
from pocketvit.edge.format import about_calibration
from pocketvit.edge.onnx import Onnx
from pocketvit.errors import UserError
from pocketvit.files import write_whole
from pocketvit.model.costs import parameters
from pocketvit.model.network import Network
from pocketvit.model.weights import WeightsMeta
from pocketvit.pages.words import amount, percent

PAGE = Path(__file__).parent / "page"
RUNTIME = Path(__file__).parent / "onnxruntime_web"  # benchmarks/vendor.py renews it
RUNTIME_FILES = {
    "module": "ort.wasm.bundle.min.mjs.gz", "program": "ort-wasm-simd-threaded.wasm.gz",
    "notices": "ThirdPartyNotices.txt.gz",
}  # fmt: skip
PAGE_FILES = {"style": "style.css", "classifier": "classifier.js", "controls": "controls.js"}
SAMPLES, MOST_OF_A_CLASS, MOST_CLASSES = 40, 4, 100


class Looking(Deployed):
    """A classifier that, where it is a ViT, says in a third output where in the image it found what it says.

    With a class token that is "looked", (N, P): the attention that the token of the last layer pays to each of P
    patches, the mean over heads; the rest to 1 it pays to itself. With mean pooling there is no such token, and it is
    (N, P, K): what each patch adds to the logit of each class beyond the mean class, exactly, since the head is linear
    and reads a mean (class activation maps, Zhou et al. 2016, arXiv 1512.04150).
    """

    def __init__(self, network: Network, meta: WeightsMeta) -> None:
        super().__init__(network, meta)
        if isinstance(self.network, Encoder):
            self.outputs = (*Deployed.outputs, "looked")

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """uint8 (N, C, H, W) to logits, probabilities and, of a ViT, what `looked` is."""
        encoder = self.network
        if not isinstance(encoder, Encoder):
            return super().forward(pixels)
        x = encoder.embedded(pixels)
        *layers, last = encoder.blocks
        assert isinstance(last, Layer)
        for layer in layers:
            x = layer(x)
        if last.first_only:
            return (*self.answers(encoder.read(encoder.norm(last(x)))), _attention(last, last.norm1(x)))
        assert isinstance(encoder.head, nn.Linear)
        x, weight = encoder.norm(last(x)), encoder.head.weight
        shares = F.linear(x[:, 1:], weight - weight.mean(dim=0)) / (x.shape[1] - 1)
        return (*self.answers(encoder.read(x)), shares)


def _attention(last: Layer, x: Tensor) -> Tensor:
    """That of the first of the tokens (N, 1 + P, D) to the others, (N, P), the mean over heads."""
    width = x.shape[-1]
    # Keys as the layer itself takes them, so that what the file holds twice falls together.
    keys = last.qkv(x).reshape(-1, last.tokens, last.qkv.out_features)[..., :width]
    query = last.query(x[:, 0]).reshape(-1, 1, width)
    query, keys = (part.unflatten(-1, (last.heads, -1)).transpose(1, 2) for part in (query, keys))
    weights = ((query * (width // last.heads) ** -0.5) @ keys.transpose(-2, -1)).softmax(dim=-1)
    return weights[:, :, 0, 1:].mean(dim=1)


class Html(Onnx):
    """See `Format`: a page, around an ONNX file that is verified before it goes in as it is."""

    suffix = ".html"

    @staticmethod
    def deployed(network: Network, meta: WeightsMeta) -> Deployed:
        """With where it looked; attention in plain operators, which every browser's runtime has."""
        return Looking(network, meta)

    @staticmethod
    def finish(file: Path, network: Network, meta: WeightsMeta, dataset: Dataset, found: dict[str, Any]) -> None:
        """Put the page around it."""
        write_page(file, file, meta, dataset, {**found, "parameters": parameters(network)})

    @staticmethod
    def about(meta: WeightsMeta) -> str:
        """Images in, by hand."""
        height, width, channels = meta.shape
        runtime = _about_runtime()
        return f"""Open it in a browser, from disk; it needs no network.

- An image is turned as its metadata say, laid over grey {meta.background} where it is transparent, made
  {"RGB" if channels == 3 else "grey"}, and scaled to {width}x{height} px by Pillow's bicubic filter. Of 16 bits a
  channel the browser keeps 8.
- Probabilities are {about_calibration(meta)}.
- Inside are the model, {runtime["package"]} {runtime["version"]} (MIT; its licence is in the page), and some test
  images of the set: who publishes the page publishes them too."""

    @staticmethod
    def loading(name: str, meta: WeightsMeta) -> str:
        """Nothing: a double click does."""
        return ""


def write_page(file: Path, model: Path, meta: WeightsMeta, dataset: Dataset, result: dict[str, Any]) -> None:
    """Write the page.

    Args:
        file: to write.
        model: an ONNX file, of a `Looking` classifier where it is a ViT; it goes into the page as it is.
        meta: that describes it.
        dataset: that it learnt from: some of its test images become samples.
        result: what verification found of `model`, "parameters" and "int8".

    Raises:
        UserError: images of other than 1 or 3 channels, which no image file gives, or a damaged runtime.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # whoever reads files needs none of it
    from markupsafe import Markup

    height, width, channels = meta.shape
    if channels not in (1, 3):
        raise UserError(f"--to html: a page takes images of 1 or 3 channels, and the model those of {channels}")
    samples, content = _samples(dataset), model.read_bytes()
    vit, looked, grid = meta.model if isinstance(meta.model, ModelConfig) else None, None, None
    if vit is not None:
        looked = "attention" if vit.pool == "token" else "shares"
        grid = [height // vit.sizes().patch, width // vit.sizes().patch]
    about = {
        "name": dataset.name, "height": height, "width": width, "channels": channels, "classes": meta.classes,
        "background": meta.background, "looked": looked, "grid": grid,
        "mean": [round(255 * value) for value in meta.mean], "samples": samples,
    }  # fmt: skip
    packed = {name: _vendored(file) for name, file in RUNTIME_FILES.items()}
    packed["model"] = gzip.compress(content, 9, mtime=0)
    inlined = {name: Markup((PAGE / file).read_text(encoding="utf-8")) for name, file in PAGE_FILES.items()}
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=percent, amount=amount)
    page = environment.get_template("template.html.jinja").render(
        about=about, meta=meta, result=result, kind="RGB" if channels == 3 else "grey", **inlined,
        packed={name: _text(part) for name, part in packed.items()}, runtime=_about_runtime(),
        licence=(RUNTIME / "LICENSE").read_text(encoding="utf-8"),
        megabytes={"model": len(content) / 1e6, "samples": sum(len(one["uri"]) for one in samples) / 1e6},
    )  # fmt: skip
    write_whole(file, page)


def model_of(page: Path) -> bytes:
    """The ONNX file inside a page. Raises UserError for a file that is no such page."""
    text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
    found = re.search(r'id="packed-model">([^<]*)</script>', text)
    if found is None:
        raise UserError(f"{page}: not a page that PocketViT wrote")
    return gzip.decompress(base64.b64decode(found[1]))


def _samples(dataset: Dataset) -> list[dict[str, str]]:
    """Test images drawn by chance, as many of each class, as PNG in data URIs; in an order that gives no class away."""
    images, labels = dataset.labelled("test")
    classes = len(dataset.classes)
    each = max(1, min(MOST_OF_A_CLASS, SAMPLES // classes))
    generator, found = np.random.default_rng(0), []
    for number in np.unique(np.linspace(0, classes - 1, min(classes, MOST_CLASSES)).round().astype(int)):
        of_it = generator.permutation(np.flatnonzero(labels == number))[:each]
        found += [{"uri": _uri(images[index]), "label": dataset.classes[number]} for index in of_it]
    return [found[place] for place in generator.permutation(len(found))]


def _uri(image: NDArray[np.uint8]) -> str:
    png = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(png, "PNG", optimize=True)
    return f"data:image/png;base64,{_text(png.getvalue())}"


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _about_runtime() -> dict[str, Any]:
    """Package, version, and hashes of its files."""
    about: dict[str, Any] = json.loads((RUNTIME / "about.json").read_text(encoding="utf-8"))
    return about


def _vendored(name: str) -> bytes:
    """A part of the runtime, as it was when vendored; UserError where it is not."""
    file = RUNTIME / name
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content).hexdigest() != _about_runtime()["sha256"][name]:
        raise UserError(f"{file}: missing, or not as PocketViT ships it: install PocketViT again")
    return content
