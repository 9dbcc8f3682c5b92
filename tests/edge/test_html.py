"""Pages that classify: what they hold, and what a browser makes of them, from disk and without a network."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import PIL
import pytest
import torch
from browser import Browser
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images
from windows import chromium_or_skip

import pocketvit as pv
from pocketvit.config import DataConfig, ModelConfig, ResNetConfig
from pocketvit.data import Dataset, Split, load
from pocketvit.data.images import Rendering, decode_image
from pocketvit.edge import html
from pocketvit.edge.html import Html, Looking, model_of, write_page
from pocketvit.edge.onnx import OnnxRuntime
from pocketvit.model.vit import ViT
from pocketvit.model.weights import WeightsMeta

EVIL = "</script><b>cat</b>"
RESULT = {"exported_accuracy": 0.5, "images": 20, "parameters": 12345, "int8": False}
READY = "document.getElementById('time').textContent.includes('ms')"


def meta(pool: str = "token", channels: int = 3, classes: tuple[str, ...] = (EVIL, "dog", "élan")) -> WeightsMeta:
    return WeightsMeta(
        "classifier", ModelConfig("digits", patch=4, pool=pool), (8, 12, channels), (0.4, 0.5, 0.6)[:channels],
        (0.2, 0.25, 0.3)[:channels], classes, temperature=0.4, background=40,
    )  # fmt: skip


def classifier(about: WeightsMeta) -> ViT:
    """Sure of itself: large weights in the head."""
    torch.manual_seed(0)
    vit = about.build()
    assert isinstance(vit, ViT)
    for parameter in vit.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    vit.head.weight.data.mul_(5)
    return vit.eval()


def written(folder: Path, about: WeightsMeta) -> Path:
    """A page of an untrained classifier."""
    images = np.random.default_rng(0).integers(0, 256, (60, *about.shape), dtype=np.uint8)
    split = Split(images, np.arange(60) % len(about.classes), None)
    dataset = Dataset("noise", about.classes, split, split, split, about.mean, about.std, ())
    Html.write(folder / "m.onnx", classifier(about), about)
    write_page(folder / "page.html", folder / "m.onnx", about, dataset, RESULT)
    return folder / "page.html"


@pytest.fixture(scope="module")
def page(run: pv.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "page.html"
    assert pv.export(run, to="html", out=file)["agreement"] > 0.995
    return file


@pytest.fixture(scope="module")
def desk(page: Path) -> Iterator[Browser]:
    with Browser(chromium_or_skip()) as browser:
        yield browser


@pytest.fixture
def opened(desk: Browser, page: Path) -> Browser:
    desk.open(page)
    desk.until(READY)
    return desk


def test_attention_is_that_of_the_last_layer() -> None:
    about = meta()
    vit = classifier(about)
    pixels = torch.randint(0, 256, (5, 3, 8, 12), dtype=torch.uint8)
    seen: list[torch.Tensor] = []
    vit.blocks[-1].attn.register_forward_pre_hook(lambda module, given: seen.append(given[-1]))
    with torch.no_grad():
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (about.mean, about.std))
        expected = vit((pixels / 255 - mean) / std)
        n, tokens, width = seen[0].shape
        q, k, _ = vit.blocks[-1].attn.qkv(seen[0]).view(n, tokens, 3, vit.shape.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / (width / vit.shape.heads) ** 0.5).softmax(dim=-1)
        logits, probabilities, looked = Looking(vit, about).eval()(pixels)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(probabilities, (expected / 0.4).softmax(dim=-1), atol=1e-4, rtol=1e-4)
    assert looked.shape == (5, 6)
    torch.testing.assert_close(looked, weights[:, :, 0, 1:].mean(dim=1))


def test_with_mean_pooling_patches_share_out_the_logits() -> None:
    about = meta("mean")
    vit = classifier(about)
    with torch.no_grad():
        logits, _, looked = Looking(vit, about).eval()(torch.randint(0, 256, (5, 3, 8, 12), dtype=torch.uint8))
        logits = logits - vit.head.bias
    assert looked.shape == (5, 6, 3)
    torch.testing.assert_close(looked.sum(dim=1), logits - logits.mean(dim=1, keepdim=True), atol=1e-5, rtol=1e-4)


def test_a_page_holds_the_model_that_was_verified_and_asks_for_nothing(tmp_path: Path) -> None:
    file = written(tmp_path, meta())
    text = file.read_text(encoding="utf-8")
    assert model_of(file) == (tmp_path / "m.onnx").read_bytes()
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert EVIL not in text
    assert "connect-src" not in text  # so that default-src holds: nothing
    assert "default-src 'none'" in text
    samples = json.loads(re.search(r'id="about">(.*?)</script>', text)[1])["samples"]
    assert {sample["label"] for sample in samples} == {EVIL, "dog", "élan"}
    content = base64.b64decode(samples[0]["uri"].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(content)).size == (12, 8)
    with pytest.raises(pv.UserError, match="not a page that PocketViT wrote"):
        model_of(tmp_path / "m.onnx")


def test_what_a_page_cannot_show_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pv.UserError, match="--to html: a page takes images of 1 or 3 channels"):
        write_page(tmp_path / "p.html", tmp_path / "m.onnx", meta(channels=2), None, RESULT)
    broken = tmp_path / "onnxruntime_web"
    broken.mkdir()
    for file in html.RUNTIME.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "ort.wasm.bundle.min.mjs.gz").write_bytes(b"other")
    monkeypatch.setattr(html, "RUNTIME", broken)
    with pytest.raises(pv.UserError, match=r"ort\.wasm\.bundle\.min\.mjs\.gz: missing, or not as PocketViT ships it"):
        written(tmp_path, meta())
    assert not (tmp_path / "page.html").exists()


def test_the_runtime_is_the_one_that_was_vendored() -> None:
    about = json.loads((html.RUNTIME / "about.json").read_text())
    assert set(about["sha256"]) == set(html.RUNTIME_FILES.values())
    for name, expected in about["sha256"].items():
        assert hashlib.sha256((html.RUNTIME / name).read_bytes()).hexdigest() == expected
    assert "MIT License" in (html.RUNTIME / "LICENSE").read_text()


def told(browser: Browser, content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """What the page scales a file to, (C, H, W), and the probabilities that it gives it, (K,)."""
    found = browser.evaluate(
        f"(async () => {{ const text = atob('{base64.b64encode(content).decode()}');"
        "const found = await pocketvit.predict(new Blob([Uint8Array.from(text, (one) => one.charCodeAt(0))]));"
        "return [Array.from(found.pixels), Array.from(found.probabilities)]; })()"
    )
    return np.array(found[0], np.uint8), np.array(found[1], np.float32)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_images_of_native_size_get_pythons_probabilities(opened: Browser, run: pv.Run) -> None:
    images = load("digits", DataConfig(), need_labels=True).labelled("test")[0][:100]
    assert len(images) == 100
    expected = pv.load(run).predict_proba(images[..., 0])
    found = [told(opened, encoded(Image.fromarray(image[..., 0]))) for image in images]
    np.testing.assert_array_equal(np.stack([pixels.reshape(8, 8) for pixels, _ in found]), images[..., 0])
    probabilities = np.stack([one for _, one in found])
    np.testing.assert_allclose(probabilities, expected, atol=1e-3)
    assert (probabilities.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert opened.complaints() == []
    assert [address.rpartition("/")[2] for address in opened.requests()] == ["page.html"]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_scaled_as_pillow_does_it(desk: Browser, channels: int, tmp_path: Path) -> None:
    about = meta(channels=channels)
    file = written(tmp_path, about)
    desk.open(file)
    desk.until(READY)
    generator, photographs = np.random.default_rng(0), load_sample_images().images
    own = Rendering(background=40)
    same = 0
    for number in range(100):
        height, width = generator.integers(60, 400, 2) if number else (5, 7)
        part = Image.fromarray(photographs[number % 2][: int(height), : int(width)])
        kind = ("PNG", "JPEG", "turned", "transparent")[number % 4]
        if kind == "transparent":
            part.putalpha(Image.linear_gradient("L").resize(part.size))
        turned = Image.Exif()
        turned[0x0112] = 6
        options = {"exif": turned} if kind == "turned" else {}
        content = encoded(part, "JPEG" if kind in ("JPEG", "turned") else "PNG", **options)
        pixels, probabilities = told(desk, content)
        expected = decode_image(content, (8, 12), channels, own).transpose(2, 0, 1)[None]
        difference = np.abs(pixels.reshape(expected.shape).astype(int) - expected)
        # Decoders of JPEG differ in the last bit, browsers keep transparent pixels multiplied, and Pillow scaled tall
        # images in another order before version 13.
        exact = 0 if int(PIL.__version__.split(".")[0]) >= 13 else 1
        assert difference.max() <= (exact if kind == "PNG" else 4), (number, kind)
        logits = OnnxRuntime(tmp_path / "m.onnx").logits(np.moveaxis(expected, 1, 3))
        same += int(logits.argmax() == probabilities.argmax())
    assert same >= 97


def test_every_way_to_give_an_image(opened: Browser, tmp_path: Path) -> None:
    image = Image.fromarray(np.full((20, 30), 200, np.uint8))
    image.save(tmp_path / "grey.png")
    (tmp_path / "notes.txt").write_text("no image")
    given = "document.getElementById('given').textContent"
    assert opened.evaluate(given).startswith("A test image, labelled")

    opened.choose("#file", tmp_path / "grey.png")
    assert opened.until(f"{given} === 'Your file, 30 × 20, scaled' && {given}")
    assert opened.evaluate("document.querySelectorAll('#strip :checked').length") == 0
    opened.choose("#file", tmp_path / "notes.txt")
    opened.until("document.getElementById('message').textContent.startsWith('notes.txt is no image')")
    opened.choose("#photo", tmp_path / "grey.png")
    opened.until(f"{given} === 'Your photo, 30 × 20, scaled'")
    assert opened.evaluate("document.getElementById('message').textContent") == ""

    made = base64.b64encode((tmp_path / "grey.png").read_bytes()).decode()
    transfer = (
        f"const bytes = Uint8Array.from(atob('{made}'), (one) => one.charCodeAt(0)); const data = new DataTransfer();"
        "data.items.add(new File([bytes], 'grey.png', { type: 'image/png' }));"
    )
    opened.evaluate(f"{{ {transfer} document.dispatchEvent(new ClipboardEvent('paste', {{ clipboardData: data }})); }}")
    opened.until(f"{given} === 'Pasted, 30 × 20, scaled'")
    opened.evaluate(
        f"{{ {transfer} document.body.dispatchEvent(new DragEvent('drop', "
        "{ dataTransfer: data, bubbles: true, cancelable: true })); }"
    )
    opened.until(f"{given} === 'Dropped, 30 × 20, scaled'")
    assert opened.complaints() == []


def test_a_drawing_is_classified_as_it_grows(opened: Browser) -> None:
    opened.evaluate("document.getElementById('draw').click()")
    box = opened.evaluate("(({ x, y, width, height }) => [x, y, width, height])(paper.getBoundingClientRect())")
    left, top, width, height = box
    drawn = "Array.from(seen.getContext('2d').getImageData(0, 0, 8, 8).data).filter((_, i) => i % 4 === 0)"
    opened.until("document.getElementById('given').textContent === 'Your drawing'")
    assert set(opened.evaluate(drawn)) == {0}  # digits are white on black
    opened.drag([(left + width * x, top + height / 2) for x in (0.2, 0.5, 0.8)])
    opened.until(f"Math.max(...{drawn}.slice(30, 32)) > 80 || Math.max(...{drawn}.slice(28, 30)) > 80")
    image = np.array(opened.evaluate(drawn)).reshape(8, 8)
    assert image[3:5, 2:6].min() > 80  # a bar across the middle
    assert image[[0, 1, 6, 7]].max() == 0
    opened.evaluate("document.getElementById('clear').click()")
    opened.until(f"Math.max(...{drawn}) === 0")


def test_the_keyboard_reaches_everything(opened: Browser) -> None:
    chosen = "document.querySelector('#strip :checked')?.value ?? ''"
    focused = "document.activeElement.id || document.activeElement.name || document.activeElement.tagName"
    assert opened.evaluate(chosen) == "0"
    reached = []
    for _ in range(6):
        opened.press("Tab")
        reached.append(opened.evaluate(focused))
    assert {"file", "draw", "sample", "SUMMARY"} <= set(reached)
    opened.evaluate("document.querySelector('#strip :checked').focus()")
    opened.press("ArrowRight")
    assert opened.until(f"{chosen} === '1'")
    opened.evaluate("document.getElementById('draw').focus()")
    opened.press("Enter")
    opened.until("document.activeElement.id === 'paper'")
    opened.until("document.getElementById('given').textContent === 'Your drawing'")
    opened.press("Space", "ArrowDown", "ArrowDown", "ArrowLeft")
    brightest = "Math.max(...seen.getContext('2d').getImageData(0, 0, 8, 8).data.filter((_, i) => i % 4 < 3))"
    opened.until(f"{brightest} > 150")


def test_every_control_has_a_name_and_the_answer_is_spoken(opened: Browser) -> None:
    opened.evaluate("document.getElementById('draw').click()")
    nodes = opened.call("Accessibility.getFullAXTree")["nodes"]
    found: dict[str, list[str]] = {}
    for node in nodes:
        if not node.get("ignored"):
            role, name = (str(node.get(key, {}).get("value", "")) for key in ("role", "name"))
            found.setdefault(role, []).append(name)
    for role in ("button", "radio", "radiogroup", "img", "image", "application", "region", "DisclosureTriangle"):
        assert all(found.get(role, [])), role
    assert "Ways to give an image" in found["group"]
    assert {"Open an image file", "Draw", "Clear"} <= set(found["button"])
    assert len(found["radio"]) == 40
    assert "Drawing area. Arrow keys move the pen, the space bar lowers and lifts it." in found["application"]
    assert found["status"] or found["alert"]
    assert re.fullmatch(r"\d, .*%", opened.evaluate("document.getElementById('spoken').textContent"))


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_page_fits_its_window(page: Path, width: int, dark: bool) -> None:
    with Browser(chromium_or_skip(), width, 844, phone=width < 600, dark=dark) as browser:
        browser.open(page)
        browser.until(READY)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        shown = browser.evaluate("getComputedStyle(document.getElementById('camera')).display") != "none"
        assert shown == (width == 390)
        assert browser.evaluate("document.getElementById('verdict').getBoundingClientRect().bottom") < 844
        ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(ground[4:].split(",")[0]) < 128) == dark
        assert browser.complaints() == []


def test_a_page_without_a_class_token_says_so(desk: Browser, tmp_path: Path) -> None:
    desk.open(written(tmp_path, meta("mean")))
    desk.until(READY)
    text = desk.evaluate("document.body.innerText")
    assert "What speaks for it" in text
    assert "no class token" in text
    assert "Where it looked" not in text
    assert EVIL in text


def test_of_a_network_without_tokens_nothing_is_shown_and_it_is_said(desk: Browser, tmp_path: Path) -> None:
    about = replace(meta(), network="resnet", model=ResNetConfig())
    network = about.build().eval()
    Html.write(tmp_path / "m.onnx", network, about)
    images = np.zeros((6, *about.shape), np.uint8)
    split = Split(images, np.arange(6) % 3, None)
    dataset = Dataset("noise", about.classes, split, split, split, about.mean, about.std, ())
    write_page(tmp_path / "page.html", tmp_path / "m.onnx", about, dataset, RESULT)
    desk.open(tmp_path / "page.html")
    desk.until(READY)
    assert desk.evaluate("document.getElementById('looked')") is None
    assert "nothing in it says where it looked" in desk.evaluate("document.body.innerText")
    assert desk.complaints() == []


def test_of_many_classes_the_first_are_shown_and_all_when_asked(desk: Browser, tmp_path: Path) -> None:
    desk.open(written(tmp_path, meta(classes=tuple(f"class {number}" for number in range(30)))))
    desk.until(READY)
    rows = "document.querySelectorAll('#ranks li').length"
    assert desk.evaluate(rows) == 5
    desk.evaluate("document.getElementById('all').click()")
    assert desk.evaluate(rows) == 30
    widths = desk.evaluate("Array.from(document.querySelectorAll('#ranks i'), (bar) => parseFloat(bar.style.width))")
    assert widths == sorted(widths, reverse=True)
    assert sum(widths) == pytest.approx(100, abs=0.1)
    desk.evaluate("document.getElementById('all').click()")
    assert desk.evaluate(rows) == 5


def test_integer_products_of_the_runtime_are_exact(opened: Browser) -> None:
    """Where a CPU adds two products of bytes in 16 bits, these saturate."""
    pixels, weights = np.full((2, 64), 255, np.uint8), np.full((64, 8), 127, np.int8)
    weights[:, 4:] = -128
    given = [onnx.helper.make_tensor_value_info("a", onnx.TensorProto.UINT8, (2, 64))]
    found = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT32, (2, 8))]
    node = onnx.helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    graph = onnx.helper.make_graph([node], "g", given, found, [onnx.numpy_helper.from_array(weights, "b")])
    opset = onnx.helper.make_opsetid("", 20)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()
    told = opened.evaluate(f"""(async () => {{
        const bytes = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
        const {{ ort }} = await pocketvit.loading;
        const session = await ort.InferenceSession.create(bytes("{base64.b64encode(model).decode()}"));
        const a = new ort.Tensor("uint8", bytes("{base64.b64encode(pixels.tobytes()).decode()}"), [2, 64]);
        return Array.from((await session.run({{ a }})).y.data);
    }})()""")
    assert told == (pixels.astype(int) @ weights.astype(int)).ravel().tolist()
