"""Sums and norms over processes that gradients flow through; gloo on the CPU, by torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What the second of two processes computed."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launch, str(Path(__file__).parent / "ranked_sums.py")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_sum_and_its_gradient_are_torchs_without_a_warning(found: dict[str, Any]) -> None:
    assert found["ours"] == found["theirs"]
    # d/dx of (1 + 2) i (x_0^2 + x_1^2) at the second rank's x_i = 10 + i.
    assert found["ours"][1] == [3 * i * 2 * (10 + i) for i in range(6)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_normalised_in_float32(dtype: torch.dtype, found: dict[str, Any]) -> None:
    half = found[str(dtype)]
    assert half["types"] == [str(dtype)] * 2 + ["torch.float32"] * 2
    rounding = torch.finfo(dtype).eps
    assert max(half["apart"][:2]) < rounding
    assert max(half["apart"][2:]) < 1e-5
