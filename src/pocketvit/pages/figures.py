"""Figures for the page: matplotlib curves and matrices as inline SVG, pixel grids as PNG data URIs.
Ink is drawn in a sentinel colour that becomes `currentColor`, so one SVG serves light and dark."""

import base64
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from PIL import Image

COLOUR = "#2b7bba"  # of what is not an arm's
SERIES = (COLOUR, "#d1603d", "#3b8b5a", "#8a5aa8", "#a8842c")
DASHES = ("-", "--", "-.", ":")  # for who tells colours apart badly
INK = "#010203"  # sentinel: no figure uses this colour for anything else

LABELLED_CLASSES = 20  # a confusion matrix names its classes up to here
COUNTED_CLASSES = 12  # and writes the count into each cell up to here

Curve = Mapping[float, float]

_STYLE: Any = {  # Any: the key type matplotlib states is a list of all its settings
    "svg.fonttype": "none",
    "svg.hashsalt": "pocketvit",  # the same run directory always gives the same page
    "text.parse_math": False,  # a class may be called "$5"
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.unicode_minus": True,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.borderaxespad": 0.2,
}


@dataclass(frozen=True)
class Picture:
    """One image as a data URI, with the size to show it at: a whole multiple of its pixels where it is small."""

    uri: str
    width: int
    height: int


def pictures(images: NDArray[np.uint8], width: int) -> list[Picture]:
    """(n, H, W, C) or (n, H, W) uint8 to pictures about `width` CSS pixels wide; C is cut to what an eye can see."""
    if images.ndim == 3:
        images = images[..., None]
    images = images[..., :3] if images.shape[-1] >= 3 else images[..., :1]
    scale = max(1, round(width / images.shape[2]))
    return [_picture(image, scale) for image in images]


def _picture(image: NDArray[np.uint8], scale: int) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.squeeze(-1) if image.shape[-1] == 1 else image)).save(buffer, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(uri, image.shape[1] * scale, image.shape[0] * scale)


@dataclass(frozen=True)
class Bundle:
    """The curves of an arm, one a seed, with its title and colour."""

    title: str
    colour: str
    seeds: Sequence[Curve]


def loss_curves(name: str, train: Curve, heldout: Curve) -> Markup:
    """Pre-training loss by epoch: training images against held-out ones."""

    def paint(axes: Axes) -> None:
        _line(axes, train, "training images", color=INK, alpha=0.55, linewidth=1.4)
        _line(axes, heldout, "held-out images", color=COLOUR)
        values = [*train.values(), *heldout.values()]
        if min(values) > 0 and max(values) > 8 * min(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        _dress(axes, "epoch", "loss")

    return _draw(f"loss-{name}", "Loss of pre-training by epoch, on training and on held-out images", paint)


def knn_curve(name: str, knn: Curve) -> Markup:
    """kNN accuracy of the frozen encoder by pre-training epoch."""

    def paint(axes: Axes) -> None:
        _line(axes, knn, "kNN on frozen features", color=COLOUR, marker="o", markersize=3.5)
        _dress(axes, "epoch", "accuracy", fraction=True)

    return _draw(f"knn-{name}", "kNN accuracy of the frozen encoder by pre-training epoch", paint)


def finetune_curves(name: str, arms: Sequence[Bundle]) -> Markup:
    """Validation accuracy by step: thin lines are seeds, thick ones their mean."""

    def paint(axes: Axes) -> None:
        for arm, dash in zip(arms, cycle(DASHES), strict=False):
            _bundle(axes, arm, dash)
        _dress(axes, "step", "validation accuracy", fraction=True)

    titles = " and ".join(f"from {arm.title}" for arm in arms)
    return _draw(f"finetune-{name}", f"Validation accuracy by fine-tuning step, {titles}", paint)


def reliability_curve(plain: Curve, calibrated: Curve) -> Markup:
    """Accuracy by confidence, of images binned by confidence, before and after calibration; the diagonal is ideal."""

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.3, linewidth=0.8)
        _line(axes, plain, "as trained", color=INK, alpha=0.55, linewidth=1.4, marker="o", markersize=3)
        _line(axes, calibrated, "calibrated", color=COLOUR, marker="o", markersize=3.5)
        _dress(axes, "confidence", "accuracy", fraction=True)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))

    return _draw("reliability", "Accuracy by confidence, as trained and calibrated", paint)


def kept_curve(kept: Curve) -> Markup:
    """Accuracy by the share of the images, the surest first, that the classifier decides and does not pass on."""

    def paint(axes: Axes) -> None:
        _line(axes, kept, "saved classifier", color=COLOUR)
        _dress(axes, "share of the images, the surest first", "accuracy", fraction=True)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))

    return _draw("kept", "Accuracy by the share of the images that is kept, the surest first", paint)


class Timed(NamedTuple):
    """A point of `accuracy_by_latency`: what was timed, its latency in ms, and its accuracy."""

    network: str
    runtime: str
    precision: str
    ms: float
    accuracy: float


def accuracy_by_latency(points: Sequence[Timed]) -> str:
    """A file of SVG, ink and paper its own: a colour for each network, a mark for each runtime."""
    colours = dict(zip(dict.fromkeys(point.network for point in points), cycle(SERIES), strict=False))
    marks = dict(zip(dict.fromkeys(point.runtime for point in points), cycle("os^Dv"), strict=False))

    def paint(axes: Axes) -> None:
        axes.set_xscale("log")
        for runtime, mark in marks.items():
            axes.plot([], [], mark, color=INK, alpha=0.55, label=runtime)
        for network, colour in colours.items():
            axes.plot([], [], "_", color=colour, markersize=9, markeredgewidth=4, label=network)
        for point in points:
            axes.plot(point.ms, point.accuracy, marks[point.runtime], color=colours[point.network], markersize=7)
            at = (point.ms, point.accuracy)
            axes.annotate(point.precision, at, (0, 7), textcoords="offset points", fontsize=9, ha="center")
        _dress(axes, "latency of one image on one thread, ms", "test accuracy", fraction=True)
        axes.margins(0.1, 0.25)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.minorticks_off()

    drawn = _draw("latency", "Test accuracy by latency", paint, (7.0, 4.2))
    head = '<svg xmlns="http://www.w3.org/2000/svg" style="color: #1f2328; background: #fff"'
    return str(drawn).replace("<svg", head, 1)


def confusion_matrix(counts: NDArray[np.float64], classes: Sequence[str]) -> Markup:
    """(n, n) counts, rows true and columns predicted; shade grows with the root of the row's share."""
    size = len(classes)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cells = np.empty((size, size, 4))
    cells[..., :3] = [int(COLOUR[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    cells[..., 3] = 0.82 * np.sqrt(share)  # the root keeps rare confusions visible

    def paint(axes: Axes) -> None:
        axes.imshow(cells, interpolation="none")
        if size <= LABELLED_CLASSES:
            names = [_shorten(name) for name in classes]
            font = 11.0 if size <= 10 else 8.5
            upright = max(map(len, names)) * size <= 30
            axes.set_xticks(range(size), names, rotation=0 if upright else 90, fontsize=font)
            axes.set_yticks(range(size), names, fontsize=font)
        axes.set_xlabel("predicted" if size <= LABELLED_CLASSES else "predicted (class number)")
        axes.set_ylabel("true" if size <= LABELLED_CLASSES else "true (class number)")
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set(visible=True, alpha=0.25)
        if size <= COUNTED_CLASSES:
            for row, column in np.argwhere(counts > 0):
                count = f"{counts[row, column]:.0f}"
                axes.text(column, row, count, ha="center", va="center", fontsize=11 if size <= 7 else 9)

    return _draw("confusion", f"Confusion matrix of {size} classes, rows true, columns predicted", paint, (5.0, 5.0))


def _shorten(name: str, limit: int = 14) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _line(axes: Axes, curve: Curve, label: str, **style: Any) -> None:
    if curve:
        xs = sorted(curve)
        alone = {"marker": "o"} if len(xs) == 1 else {}  # one point makes no line
        axes.plot(xs, [curve[x] for x in xs], label=label, **{**alone, **style})


def _bundle(axes: Axes, arm: Bundle, dash: str) -> None:
    if not arm.seeds:
        return
    common = set(arm.seeds[0]).intersection(*arm.seeds)  # a mean over a varying set of seeds would jump
    mean = {x: sum(curve[x] for curve in arm.seeds) / len(arm.seeds) for x in common}
    if len(arm.seeds) > 1:
        for curve in arm.seeds:
            _line(axes, curve, "_seed", color=arm.colour, alpha=0.3, linewidth=0.9)
    _line(axes, mean, arm.title, color=arm.colour, linestyle=dash)


def _dress(axes: Axes, x: str, y: str, fraction: bool = False) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if fraction:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.8)
    axes.tick_params(length=3, width=0.8)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, columnspacing=1.2)


def _draw(name: str, alt: str, paint: Callable[[Axes], None], size: tuple[float, float] = (5.0, 3.2)) -> Markup:
    buffer = io.BytesIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the layout font may lack a class name's script; the reader's browser has it
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=size, layout="constrained")
        paint(figure.add_subplot())
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue().decode("utf-8"), name, alt)


def _inline(svg: str, name: str, alt: str) -> Markup:
    """Cut a standalone SVG file down to an element: scalable, named, ids its own, ink the page's."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = body.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    body = body.replace("xlink:href=", "href=").replace(INK, "currentColor")
    return Markup(f'<svg {view[0] if view else ""} role="img" aria-label="{escape(alt)}">{body}')
