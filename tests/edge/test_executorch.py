"""ExecuTorch programs, in processes of their own."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from exported import classifier, images, meta

from pocketvit.edge.executorch import ExecuTorch, Pte
from pocketvit.edge.format import CannotRun
from pocketvit.errors import UserError
from pocketvit.evaluation.predictor import Predictor

if find_spec("executorch") is None:
    pytest.skip('needs the extra: pip install "pocketvit[executorch]"', allow_module_level=True)
pytestmark = pytest.mark.slow  # half a minute to write a program, however small


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_a_program_is_the_network_and_a_part_of_it_is_told(pool: str, tmp_path: Path) -> None:
    about = meta(pool)
    vit = classifier(about)
    Pte.write(tmp_path / "m.pte", vit, about)
    runtime, expected = ExecuTorch(tmp_path / "m.pte", threads=1), Predictor.of(vit, about, "cpu")
    assert runtime.meta == about
    (tmp_path / "half.pte").write_bytes((tmp_path / "m.pte").read_bytes()[:5000])
    with pytest.raises(UserError, match="or a damaged one") as error:
        ExecuTorch(tmp_path / "half.pte")
    assert "\n" not in str(error.value)
    try:
        found = runtime.logits(images(20))
    except CannotRun as reason:
        pytest.skip(str(reason))
    np.testing.assert_allclose(found, expected.logits(images(20)), atol=2e-5, rtol=1e-4)


def test_foreign_programs_are_told(tmp_path: Path) -> None:
    (tmp_path / "text.pte").write_text("no program")
    for name, words in (("text", "not an ExecuTorch program"), ("missing", "no such file")):
        with pytest.raises(UserError, match=words) as error:
            ExecuTorch(tmp_path / f"{name}.pte")
        assert "\n" not in str(error.value)
