"""The verb that writes files for other runtimes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.config import resolve, run_config
from pocketvit.data import Dataset, load
from pocketvit.edge.verified import verified
from pocketvit.errors import UserError
from pocketvit.evaluation.predictor import Predictor
from pocketvit.files import write_whole
from pocketvit.model.costs import parameters
from pocketvit.model.vit import ViT
from pocketvit.model.weights import WeightsMeta
from pocketvit.run.folder import RunFolder
from pocketvit.verbs.models import Model, classifier_of, path_of, rendering_of

KINDS = ("onnx", "html")
CALIBRATING = 512  # train images


def export(
    model: Model,
    *,
    to: str = "onnx",
    out: str | Path,
    int8: bool = False,
    data: str | None = None,
    max_drop: float = 0.3,
) -> dict[str, Any]:
    """Write a classifier as a file that runs without PocketViT, verified on the test images of its run.

    Args:
        model: a run, or weights of a classifier.
        to: "onnx", or "html" for a page that classifies in a browser, offline.
        out: the file; a card, FILE.md, is written beside it.
        int8: quantise the products with weights, calibrated on train images.
        data: the images that the run came from; None takes those that it was begun with.
        max_drop: points of test accuracy that may be lost, or one image where that is more.

    Returns:
        "file", "bytes", and what `Verification` has.

    Raises:
        UserError: no classifier, no such kind, no images, or a file that is not as good, which is not left behind.
    """
    from pocketvit.edge.deployed import Deployed
    from pocketvit.edge.html import Looking, card, write_page
    from pocketvit.edge.onnx import OnnxRuntime, write_int8, write_onnx

    if to not in KINDS:
        raise UserError(f"--to {to}: expected one of {', '.join(KINDS)}")
    vit, meta = classifier_of(model)
    if not isinstance(vit, ViT):
        raise UserError(f"a {meta.model.preset} cannot be exported yet: give a run that saved a ViT")
    dataset, file = images_of(path_of(model), meta, data), Path(out)
    draft = file.with_name(f".{file.name}.partial")
    draft.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_onnx(draft, vit, meta, Looking if to == "html" else Deployed)
        if int8:
            write_int8(draft, draft, calibrating(dataset))
        exported = Predictor(OnnxRuntime(draft), meta.shape, meta.classes, meta.temperature)
        found = verified(exported, Predictor.of(vit, meta, "cpu"), *dataset.labelled("test"))
        if not found.holds(max_drop / 100):
            raise UserError(
                f"--out {out}: not written: its test accuracy is {100 * found.exported_accuracy:.2f} %, that of the "
                f"network {100 * found.accuracy:.2f} %; --max-drop {100 * found.drop + 0.01:.2f} would allow that"
            )
        if to == "html":
            about = {**found.to_json(), "int8": int8, "parameters": parameters(vit)}
            write_page(draft, draft, meta, dataset, about)
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    result = {"file": str(file), "to": to, "int8": int8, "bytes": file.stat().st_size, **found.to_json()}
    text = card(file, meta, dataset, result) if to == "html" else _card(result, file, meta, dataset)
    write_whole(file.with_name(f"{file.name}.md"), text)
    return result


def calibrating(dataset: Dataset) -> NDArray[np.uint8]:
    """Train images (N, H, W, C), for a network in int8 to be calibrated on."""
    images, _ = dataset.labelled("train")
    return images[np.sort(np.random.default_rng(0).permutation(len(images))[:CALIBRATING])]


def images_of(path: Path, meta: WeightsMeta, data: str | None) -> Dataset:
    """The images that a run, or a file in one, came from, split as it split them; `data` where it does not say which.

    Raises UserError where they are not known, or not those.
    """
    folder = RunFolder(path if path.is_dir() else path.parent)
    if data is None:
        try:
            data = json.loads(folder.call.read_text())["data"]
        except (OSError, ValueError, KeyError):
            raise UserError(f"{path}: it is not known which images it came from: give --data") from None
    config = resolve(config=run_config(path)).data
    sized = replace(config, size="{}x{}".format(*meta.shape))
    dataset = load(str(data), sized, rendering=rendering_of(meta), channels=meta.shape[2], need_labels=True)
    if meta.source and dataset.fingerprint != meta.source:
        raise UserError(
            f"--data {data}: not the images that the model learnt from: what tests must be what it held out"
        )
    if dataset.classes != meta.classes:
        raise UserError(f"--data {data}: other classes than the model's")
    return dataset


def _card(result: dict[str, Any], file: Path, meta: Any, dataset: Dataset) -> str:
    """What whoever finds the file should know."""
    height, width, channels = meta.shape
    kind = "RGB" if channels == 3 else "grey"
    return f"""# {file.name}

A classifier of {len(meta.classes)} classes for {kind} images of {width}x{height} px, preset `{meta.model.preset}`.
PocketViT made it from {dataset.name} ({len(dataset.train):,} train images).

- Input `pixels`: uint8 (N, {channels}, {height}, {width}), from 0 to 255, any N. Other sizes are scaled to this one
  first, by Pillow's bicubic filter; nothing else is done to them: normalisation is inside.
- Outputs `logits` and `probabilities`, both (N, {len(meta.classes)}), the latter calibrated (temperature
  {meta.temperature:.3f} inside).
- Test accuracy {100 * result["exported_accuracy"]:.2f} % on {result["images"]:,} images; of the network in PyTorch
  {100 * result["accuracy"]:.2f} %. Both name the same class for {100 * result["agreement"]:.2f} % of them.
- {result["bytes"]:,} bytes{", weights in int8" if result["int8"] else ""}.
- It knows these classes alone, and images like those: of anything else it names one of them all the same.

Classes, in the order of the outputs: {", ".join(meta.classes)}.

```python
import numpy as np, onnxruntime
from PIL import Image
image = Image.open("image.png").convert("{"RGB" if channels == 3 else "L"}").resize(({width}, {height}), Image.BICUBIC)
pixels = np.asarray(image).reshape({height}, {width}, {channels}).transpose(2, 0, 1)[None]
logits, probabilities = onnxruntime.InferenceSession("{file.name}").run(None, {{"pixels": pixels}})
```
"""
