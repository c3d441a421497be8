"""Point Transformer V3 on a large cloud: the memory of a pass is bounded."""

import subprocess
import sys

import pytest

MOST_GB = 4.0
SCRIPT = """
import sys
import torch
from p2pkit.networks import build_student
from p2pkit.networks.ptv3 import SMALL

torch.manual_seed(0)
count = int(sys.argv[1])
side = int((count / 3) ** 0.5) + 1
first, second = (part.flatten()[: count // 3 + 1] for part in
                 torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
none = torch.zeros_like(first)
# A floor and two walls, as a room's surfaces are.
room = torch.cat([torch.stack(axes, dim=1) for axes in
                  ((none, first + 1, second + 1, none), (none, first + 1, none, second + 1),
                   (none, none, first + 1, second + 1))])[:count]
assert SMALL.patch_size == 1024
student = build_student("PTv3-small", in_channels=3).train()
rows = student(room.int(), torch.rand(len(room), 3))
rows.square().mean().backward()
assert all(value.grad.isfinite().all() for value in student.parameters())
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(len(rows), int(peak.split()[1]) / 1e6)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_a_pass_over_100000_voxels_stays_below_4_gb() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "100000"], check=True, capture_output=True, text=True
    )
    count, peak_gb = done.stdout.split()
    assert int(count) == 100_000
    assert float(peak_gb) < MOST_GB
