"""The verb that writes files for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvit.config import resolve, run_config
from pocketvit.data import Arrays, Dataset
from pocketvit.edge.format import CannotRun, Format
from pocketvit.edge.formats import format_of
from pocketvit.edge.sensitivity import sensitivities
from pocketvit.edge.verified import Verification, verified
from pocketvit.errors import UserError
from pocketvit.evaluation.predictor import Predictor
from pocketvit.files import drafts, expanded, write_whole
from pocketvit.model.costs import classifier_costs
from pocketvit.model.network import Network
from pocketvit.model.weights import WeightsMeta
from pocketvit.pages.words import amount
from pocketvit.verbs.asked import Data, spec_of
from pocketvit.verbs.models import Model, classifier_of, data_of, dataset_like, path_of, split_like, unknown_split

CALIBRATING = 512  # train images
SENSING = 128  # of these, where layers are told apart
NAMED = 3  # layers
MADE = "PocketViT made it from"  # in every card


def export(
    model: Model,
    *,
    to: str = "onnx",
    out: str | Path,
    int8: bool = False,
    data: Data | None = None,
    max_drop: float = 0.3,
) -> dict[str, Any]:
    """Write a classifier as a file that runs without PocketViT, verified on the test images of its run.

    Args:
        model: a run, or weights of a classifier.
        to: "onnx", "openvino", "executorch", "timm", or "html" for a page that classifies in a browser, offline.
        out: the file; a card, FILE.md, is written beside it. Those of an earlier export are replaced, and no others.
        int8: quantise the products with weights, calibrated on train images.
        data: the images that the run came from; None takes those that it was begun with.
        max_drop: points of test accuracy that may be lost, or one image where that is more.

    Returns:
        "file", "to", "int8", "bytes" and "verified"; with what `Verification` has or, where this machine cannot run the
        file, "reason".

    Raises:
        UserError: no classifier, no such kind, no images, a file there that no export wrote, or one made that is not as
            good, which is not left behind.
    """
    file = expanded(out)
    kind = format_of(to, file, int8)
    if not max_drop >= 0:
        raise UserError(f"--max-drop {max_drop:g}: expected points of accuracy, 0 or more")
    network, meta = classifier_of(model)
    dataset = images_of(path_of(model), meta, data)
    calibration = calibrating(dataset) if int8 else None
    with drafts(file) as folder:
        draft, card = folder / file.name, file.with_name(f"{file.name}.md")
        _refuse_to_replace_others(file, card)
        kind.write(draft, network.cpu().eval(), meta, calibration)
        said = _verified(kind, draft, network, meta, dataset)
        if isinstance(said, Verification) and not said.holds(max_drop / 100):
            raise UserError(_refusal(out, said, network, meta, calibration))
        known = said.to_json() if isinstance(said, Verification) else {"reason": said}
        kind.finish(draft, network, meta, dataset, known | {"int8": int8})
        draft.replace(file)
        about = {"file": str(file), "to": to, "int8": int8, "bytes": file.stat().st_size}
        found = about | {"verified": "images" in known} | known
        write_whole(card, _card(found, kind, file, meta, dataset))
    return found


def _refuse_to_replace_others(file: Path, card: Path) -> None:
    """Raise UserError where a file is there that no export wrote: beside what one wrote lies a card that says so."""
    if card.is_file() and MADE in card.read_text(encoding="utf-8", errors="replace"):
        return
    for there in (file, card):
        if there.is_file():
            raise UserError(f"--out {file}: {there.name} is there, and no export wrote it: choose another name")


def _verified(
    kind: type[Format], file: Path, network: Network, meta: WeightsMeta, dataset: Dataset
) -> Verification | str:
    """What test images say; or, where this machine cannot run the file, why."""
    try:
        exported = Predictor(kind.runtime(file), meta.shape, meta.classes, meta.temperature)
        return verified(exported, Predictor.of(network, meta, "cpu"), *dataset.labelled("test"))
    except CannotRun as reason:
        return str(reason).removeprefix(f"{file}: ")


def _refusal(
    out: str | Path, found: Verification, network: Network, meta: WeightsMeta, calibration: NDArray[np.uint8] | None
) -> str:
    """Why a file is not kept and, where int8 is the cause, which layers are."""
    blame = ""
    if calibration is not None:
        layers = list(sensitivities(network, meta, calibration[:SENSING]).items())[:NAMED]
        named = ", ".join(f"{name} ({100 * change:.1f} %)" for name, change in layers)
        blame = f"; int8 changes the logits most in {named}, each quantised alone"
    return (
        f"--out {out}: not written: its test accuracy is {100 * found.exported_accuracy:.2f} %, that of the network "
        f"{100 * found.accuracy:.2f} %{blame}; --max-drop {100 * found.drop + 0.01:.2f} would allow that"
    )


def calibrating(dataset: Dataset) -> NDArray[np.uint8]:
    """Train images (N, H, W, C): what calibrates is not what tests."""
    images, _ = dataset.labelled("train")
    return images[np.sort(np.random.default_rng(0).permutation(len(images))[:CALIBRATING])]


def images_of(path: Path, meta: WeightsMeta, data: Data | None) -> Dataset:
    """The images that a run, or a file in one, came from, split as it split them; `data` where it does not say which.

    Raises UserError where they are not known, or not those.
    """
    spec = spec_of(data_of(path, "give --data") if data is None else data)
    dataset = dataset_like(spec, meta, split_like(resolve(config=run_config(path)).data, meta))
    data = "" if isinstance(spec, Arrays) else f" {spec}"
    if meta.source and dataset.fingerprint != meta.source:
        raise UserError(f"--data{data}: not the images that the model learnt from: what tests must be what it held out")
    if not (dataset.own_test or meta.held_out or run_config(path)):
        raise unknown_split(spec)
    if dataset.classes != meta.classes:
        raise UserError(f"--data{data}: other classes than the model's")
    return dataset


def _card(result: dict[str, Any], kind: type[Format], file: Path, meta: WeightsMeta, dataset: Dataset) -> str:
    """What whoever finds the file should know."""
    height, width, channels = meta.shape
    mode, colours = ("RGB", "RGB") if channels == 3 else ("L", "grey")
    if result["verified"]:
        tested = (
            f"Test accuracy {100 * result['exported_accuracy']:.2f} % on {result['images']:,} images; of the network\n"
            f"  in PyTorch {100 * result['accuracy']:.2f} %. Both name the same class for "
            f"{100 * result['agreement']:.2f} % of them."
        )
    else:
        tested = f"Not verified: where it was exported, {result['reason']}."
    loading = kind.loading(file.name, meta)
    costs = classifier_costs(meta.network, meta.model, meta.shape, len(meta.classes))
    code = (
        f"""
```python
from PIL import Image
image = Image.open("image.png").convert("{mode}").resize(({width}, {height}), Image.BICUBIC)
{loading}
```
"""
        if loading
        else ""
    )
    return f"""# {file.name}

A classifier of {len(meta.classes)} classes for {colours} images of {width}x{height} px, preset `{meta.model.preset}`.
{MADE} {dataset.name} ({len(dataset.train):,} train images).

{kind.about(meta)}
- {tested}
- {costs.params:,} parameters, {amount(costs.macs)} multiply-accumulates an image; {result["bytes"]:,} bytes{
        ", weights in int8" if result["int8"] else ""
    }.
- It knows these classes alone, and images like those: of anything else it names one of them all the same.

Classes, in the order of the outputs: {", ".join(meta.classes)}.
{code}"""
