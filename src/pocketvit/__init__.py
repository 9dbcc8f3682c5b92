"""PocketViT: from a folder of small images to a small, fast, honestly measured image classifier.

Each verb of the command line is a function here; importing this package imports nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pocketvit.errors import UserError, speaking_python

if TYPE_CHECKING:
    from pocketvit.data import Arrays as Arrays
    from pocketvit.estimator import PocketViTClassifier as PocketViTClassifier
    from pocketvit.verbs.bench import bench as bench
    from pocketvit.verbs.export import export as export
    from pocketvit.verbs.model import TrainedModel as TrainedModel
    from pocketvit.verbs.model import load as load
    from pocketvit.verbs.predict import embed as embed
    from pocketvit.verbs.predict import predict as predict
    from pocketvit.verbs.runs import Run as Run
    from pocketvit.verbs.train import finetune as finetune
    from pocketvit.verbs.train import fit as fit
    from pocketvit.verbs.train import plan as plan
    from pocketvit.verbs.train import pretrain as pretrain
    from pocketvit.verbs.train import resume as resume
    from pocketvit.verbs.use import budget as budget
    from pocketvit.verbs.use import evaluate as evaluate
    from pocketvit.verbs.use import probe as probe
    from pocketvit.verbs.use import reconstruct as reconstruct
    from pocketvit.verbs.use import report as report

_PLACES = {
    **dict.fromkeys(("fit", "plan", "pretrain", "finetune", "resume"), "pocketvit.verbs.train"),
    "Run": "pocketvit.verbs.runs",
    **dict.fromkeys(("load", "TrainedModel"), "pocketvit.verbs.model"),
    **dict.fromkeys(("predict", "embed"), "pocketvit.verbs.predict"),
    "bench": "pocketvit.verbs.bench",
    "export": "pocketvit.verbs.export",
    **dict.fromkeys(("probe", "evaluate", "reconstruct", "report", "budget"), "pocketvit.verbs.use"),
    "Arrays": "pocketvit.data",
    "PocketViTClassifier": "pocketvit.estimator",
}

__all__ = ["UserError", "__version__", *_PLACES]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("pocketvit")
    if name not in _PLACES:
        raise AttributeError(f"module 'pocketvit' has no attribute '{name}'")
    found = getattr(import_module(_PLACES[name]), name)
    globals()[name] = found = found if isinstance(found, type) else speaking_python(found)
    return found
