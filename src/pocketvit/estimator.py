"""PocketViT as an estimator of scikit-learn, for its cross-validation, searches and pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from pocketvit.data import Arrays
from pocketvit.data.sources.arrays import is_missing
from pocketvit.errors import UserError, speaking_python
from pocketvit.verbs.model import Images, TrainedModel, load
from pocketvit.verbs.train import fit


class PocketViTClassifier(ClassifierMixin, BaseEstimator):
    """A small Vision Transformer, pre-trained on the very images that it is fitted to.

    Of these a tenth validate and a twentieth test, as `summary_` says; whoever cross-validates has a test of their own.

    >>> import numpy as np
    >>> images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    >>> images[::2, :4] //= 4  # half of them are dark above
    >>> model = PocketViTClassifier(recipe="digits", epochs=1, finetune_epochs=4, settings={"finetune.min_steps": 0})
    >>> model.fit(images, np.where(np.arange(60) % 2, "light", "dark")).predict_proba(images[:3]).shape
    (3, 2)

    Args:
        recipe: name of a recipe or a YAML file; None takes tiny, or lite on a GPU.
        epochs: of pre-training; None takes the recipe's.
        finetune_epochs: of fine-tuning; None takes the recipe's.
        time_limit: as "10m", in place of both.
        settings: others by their dotted names, as {"finetune.lr": 1e-3}.
        random_state: seed.
        device: auto, cpu, cuda or mps.
        out: run directory to keep; None keeps none.
        verbose: say on stderr what is done.

    Attributes:
        classes_: (K,) as they were given.
        model_: the fitted `TrainedModel`.
        summary_: what the run came to, as `fit --json` prints it.
    """

    def __init__(
        self,
        *,
        recipe: str | None = None,
        epochs: int | None = None,
        finetune_epochs: int | None = None,
        time_limit: str | float | None = None,
        settings: Mapping[str, Any] | None = None,
        random_state: int = 0,
        device: str = "auto",
        out: str | Path | None = None,
        verbose: bool = False,
    ) -> None:
        self.recipe = recipe
        self.epochs = epochs
        self.finetune_epochs = finetune_epochs
        self.time_limit = time_limit
        self.settings = settings
        self.random_state = random_state
        self.device = device
        self.out = out
        self.verbose = verbose

    @speaking_python
    def fit(self, X: NDArray[np.uint8], y: Any) -> PocketViTClassifier:
        """Train on images X, uint8 (N, H, W) or (N, H, W, C), with labels y (N,). Raises UserError for others."""
        given_labels = np.asarray(y)
        if missing := sum(map(is_missing, given_labels.ravel().tolist())):
            raise UserError(f"y: {missing} labels are missing (NaN or None): leave these images out")
        self.classes_, numbers = np.unique(given_labels, return_inverse=True)
        lengths = {"pretrain.epochs": self.epochs, "finetune.epochs": self.finetune_epochs}
        given: dict[str, Any] = {"seeds": 1, "data.labels_per_class": "all", "data.test_fraction": 0.05}
        given |= {name: value for name, value in lengths.items() if value is not None}
        given |= {"seed": self.random_state, "device": self.device, **(self.settings or {})}
        data = Arrays(X, numbers, tuple(map(str, self.classes_)))
        with TemporaryDirectory() as folder:
            run = fit(
                data, recipe=self.recipe, out=self.out or Path(folder) / "run", time_limit=self.time_limit,
                overwrite=self.out is not None, quiet=not self.verbose, **given,
            )  # fmt: skip
            self.model_: TrainedModel = load(run, self.device)
            self.summary_ = run.summary
        return self

    def predict(self, X: Images) -> NDArray[Any]:
        """(N,) classes, as they were given, of images as `TrainedModel` takes them."""
        likeliest = self.predict_proba(X).argmax(axis=1)
        classes: NDArray[Any] = self.classes_
        return classes[likeliest]

    def predict_proba(self, X: Images) -> NDArray[np.float32]:
        """(N, K) probabilities, in the order of `classes_`."""
        check_is_fitted(self, "model_")
        return self.model_.predict_proba(X)

    def transform(self, X: Images) -> NDArray[np.float32]:
        """(N, D) features: what the classifier reads."""
        check_is_fitted(self, "model_")
        return self.model_.embed(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        return tags
