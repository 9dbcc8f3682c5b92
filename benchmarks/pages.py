"""Whether an exported page says what Python says: the same images through a browser and through onnxruntime.

    python benchmarks/pages.py runs/demo --page demo.html

Three kinds of files: test images as they are, test images enlarged to other sizes and shapes as JPEG, and parts of
photographs (scikit-learn's). The evidence is results/page-NAME.json; it needs Chromium.
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
from browser import Browser, chromium
from common import REPO, write_evidence
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from pocketvit.data.images import read_images
from pocketvit.edge.format import INPUT, OUTPUTS, planar
from pocketvit.edge.html import model_of
from pocketvit.edge.onnx import OnnxRuntime
from pocketvit.errors import UserError
from pocketvit.evaluation.predictor import Predictor
from pocketvit.training.device import make_accelerator
from pocketvit.verbs.export import images_of
from pocketvit.verbs.models import classifier_of, path_of

COUNT = 100


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(prog="benchmarks/pages.py", description=__doc__.split("\n")[0], allow_abbrev=False)
    made.add_argument("run", help="run or weights that the page was made from")
    made.add_argument("--page", type=Path, required=True, help="file that `pocketvit export --to html` wrote")
    made.add_argument("--data", help="images that the run came from; default: those that it was begun with")
    made.add_argument("--untimed", action="store_true", help="leave out times: others are at work on this machine")
    made.add_argument("--out", type=Path, help="evidence file (default: results/page-NAME.json, by the page's name)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Compare, and write the evidence; returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    given, started = parser().parse_args(words), time.perf_counter()
    given.out = given.out or REPO / "results" / f"page-{given.page.stem}.json"
    path = chromium()
    if path is None:
        print("pages: no Chromium here", file=sys.stderr)
        return 2
    try:
        network, meta = classifier_of(given.run)
        images, _ = images_of(path_of(given.run), meta, given.data).labelled("test")
        with TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            file.write_bytes(model_of(given.page))
            same = Predictor(OnnxRuntime(file), meta.shape, meta.classes, meta.temperature)
            plain = unfused(file)
    except UserError as error:
        print(f"pages: {error}", file=sys.stderr)
        return 2
    eager = Predictor.of(network, meta, "cpu")
    results: dict[str, Any] = {"page_bytes": given.page.stat().st_size, "classes": len(meta.classes)}
    with Browser(path) as browser:
        began = time.perf_counter()
        browser.open(given.page)
        browser.until("document.getElementById('time').textContent.includes('ms')")
        results["seconds_until_first_answer"] = time.perf_counter() - began
        for kind, contents in files(images).items():
            pixels, _ = read_images(contents, meta.shape[:2], meta.shape[2], meta.rendering)
            seen, found = in_browser(browser, contents, meta.shape)
            results[kind] = {
                "images": len(contents),
                "largest_difference_of_pixels": int(np.abs(seen.astype(int) - pixels).max()),
                "against_the_same_file": agreement(found, same.probabilities(pixels)),
                "against_the_network": agreement(found, eager.probabilities(pixels)),
                "unfused_against_the_same_file": agreement(plain(pixels), same.probabilities(pixels)),
            }
        if given.untimed:
            del results["seconds_until_first_answer"]
        else:
            size = int(np.prod(meta.shape))
            results["latency"] = browser.evaluate(f"pocketvit.latency(new Uint8Array({size}), 3000)")
        results["browser"] = browser.call("Browser.getVersion")["product"]
        results["requests"] = len(browser.requests())  # the file itself
        results["complaints"] = browser.complaints()
    given.page, given.run, given.data = given.page.name, Path(given.run).name, given.data and Path(given.data).name
    words = [given.run, "--page", given.page, *(["--data", given.data] if given.data else [])]  # no places
    words += ["--untimed"] * given.untimed
    write_evidence("pages", given, words, make_accelerator("cpu"), started, results)
    return 0


def unfused(file: Path) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Probabilities (N, K) of images (N, H, W, C) by the file's operators one by one: what rounding alone changes."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run([OUTPUTS[1]], {INPUT: planar(images)})[0], np.float32)


def files(images: NDArray[np.uint8]) -> dict[str, list[bytes]]:
    """COUNT encoded images of each kind."""
    generator = np.random.default_rng(0)
    chosen = [
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image) for image in images[:: len(images) // COUNT]
    ]
    chosen = chosen[:COUNT]
    sizes = (generator.uniform(1.2, 9, (len(chosen), 2)) * chosen[0].size).astype(int)
    enlarged = [one.resize(tuple(size), Image.Resampling.BICUBIC) for one, size in zip(chosen, sizes, strict=True)]
    return {
        "native": [encoded(one, "PNG") for one in chosen],
        "enlarged": [encoded(one, "JPEG", quality=92) for one in enlarged],
        "photographs": [encoded(one, "JPEG", quality=92) for one in parts(generator)],
    }


def parts(generator: np.random.Generator) -> Iterator[Image.Image]:
    """COUNT parts of scikit-learn's photographs, each 60 to 420 px to a side."""
    photographs = load_sample_images().images
    for number in range(COUNT):
        photograph = photographs[number % len(photographs)]
        height, width = generator.integers(60, 421, 2)
        top, left = (
            generator.integers(0, photograph.shape[0] - height),
            generator.integers(0, photograph.shape[1] - width),
        )
        yield Image.fromarray(photograph[top : top + height, left : left + width])


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """A file's content."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def in_browser(
    browser: Browser, contents: list[bytes], shape: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Pixels (N, H, W, C) that the page scaled files to, and probabilities (N, K) that it gave them."""
    seen, found = [], []
    for content in contents:
        told = browser.evaluate(
            f"(async () => {{ const text = atob('{base64.b64encode(content).decode()}');"
            "const found = await pocketvit.predict(new Blob([Uint8Array.from(text, (one) => one.charCodeAt(0))]));"
            "return [Array.from(found.pixels), Array.from(found.probabilities)]; })()"
        )
        height, width, channels = shape
        seen.append(np.array(told[0], np.uint8).reshape(channels, height, width).transpose(1, 2, 0))
        found.append(told[1])
    return np.stack(seen), np.array(found, np.float32)


def agreement(found: NDArray[np.float32], expected: NDArray[np.float32]) -> dict[str, float]:
    """Of two sets of probabilities (N, K)."""
    return {
        "same_class": int((found.argmax(axis=1) == expected.argmax(axis=1)).sum()),
        "largest_difference": float(np.abs(found - expected).max()),
    }


if __name__ == "__main__":
    sys.exit(main())
