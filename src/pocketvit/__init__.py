"""PocketViT: from a folder of small images to a small, fast, honestly measured image classifier.

Each verb of the command line is a function here; importing this package imports nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pocketvit.errors import UserError

if TYPE_CHECKING:
    from pocketvit.verbs.predict import predict as predict
    from pocketvit.verbs.train import finetune as finetune
    from pocketvit.verbs.train import fit as fit
    from pocketvit.verbs.train import plan as plan
    from pocketvit.verbs.train import pretrain as pretrain
    from pocketvit.verbs.use import budget as budget
    from pocketvit.verbs.use import evaluate as evaluate
    from pocketvit.verbs.use import probe as probe
    from pocketvit.verbs.use import reconstruct as reconstruct
    from pocketvit.verbs.use import report as report

_VERBS = {
    **dict.fromkeys(("fit", "plan", "pretrain", "finetune"), "train"),
    "predict": "predict",
    **dict.fromkeys(("probe", "evaluate", "reconstruct", "report", "budget"), "use"),
}

__all__ = ["UserError", "__version__", *_VERBS]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("pocketvit")
    if name not in _VERBS:
        raise AttributeError(f"module 'pocketvit' has no attribute '{name}'")
    return getattr(import_module(f"pocketvit.verbs.{_VERBS[name]}"), name)
