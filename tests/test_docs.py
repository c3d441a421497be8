"""The examples in docs/ that show how to add a teacher and a loss do what the pages say."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from tiny_recording import recording_config
from torch import Tensor
from torch.nn import functional

from p2pkit import teachers
from p2pkit.geometry.maps.grid import FeatureGrid
from p2pkit.layers.features import FeatureConfig
from p2pkit.losses import LOSSES, ContrastBatch, LossConfig, build_loss
from p2pkit.pipelines.extract.run import run
from p2pkit.store.reading import open_store
from p2pkit.teachers import Teacher, TeacherOptions

DOCS = Path(__file__).parents[1] / "docs"
PYTHON = re.compile(r"^( *)```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def example(page: str, defines: str, **names: Any) -> Any:
    """Run the page's code block that defines a name, and give what it defined."""
    for indent, block in PYTHON.findall((DOCS / page).read_text()):
        if f"class {defines}" in block or f"def {defines}" in block:
            code = re.sub(rf"^{indent}", "", block, flags=re.MULTILINE)
            exec(compile(code, page, "exec"), names)  # our own page
            return names[defines]
    raise AssertionError(f"{page} has no example that defines {defines}")


def test_the_example_teacher_extracts(
    room_recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mean_color = example(
        "teacher-maps.md", "MeanColor", np=np, Sequence=Sequence, Any=Any, FeatureGrid=FeatureGrid
    )
    assert isinstance(mean_color(), Teacher)
    monkeypatch.setitem(teachers.TEACHERS, "mean-color", lambda options, name: mean_color())
    features = FeatureConfig(teacher=TeacherOptions(name="mean-color:any"))
    store = open_store(
        run(recording_config(room_recording, tmp_path / "store", features=features, limit=4))
    )
    (layer,) = store.feature_layers
    sample = store.read(layer, 0, 0)
    assert sample.arrays["map"].shape == (1, 3, 4, 3)
    assert 0 < sample.arrays["map"].min() < sample.arrays["map"].max() <= 1


def test_the_example_loss_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = example(
        "losses.md",
        "alignment_loss",
        ContrastBatch=ContrastBatch,
        LossConfig=LossConfig,
        Float=Float,
        Tensor=Tensor,
    )
    monkeypatch.setitem(LOSSES, "alignment", loss)
    embedding = functional.normalize(torch.randn(8, 4))
    ids = torch.arange(8)
    batch = ContrastBatch(embedding, embedding, ids, ids)
    assert build_loss(LossConfig(name="alignment"))(batch).item() == pytest.approx(0, abs=1e-6)
