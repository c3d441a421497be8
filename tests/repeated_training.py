"""A student trained twice from the beginning, in processes of their own."""

import os
import subprocess
import sys

TRAIN = """
import hashlib, torch
from p2pkit.networks import build_student
torch.manual_seed(0)
student = build_student("Res16UNet14A", in_channels=3, conv1_kernel_size=5, engine=ENGINE)
cells = torch.randperm(24**3)[:800]
zero = torch.zeros_like(cells)
coordinates = torch.stack((zero, cells // 576, cells // 24 % 24, cells % 24), dim=1).int()
features = torch.randn(len(coordinates), 3)
optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
for _ in range(3):
    optimizer.zero_grad()
    student(coordinates, features).square().mean().backward()
    optimizer.step()
digest = hashlib.sha256()
for value in student.state_dict().values():
    digest.update(value.numpy().tobytes())
print(digest.hexdigest())
"""


def two_trainings(engine: str, before: str = "") -> list[str]:
    """sha256 of all weights after three steps, of two runs; `before` is run first in each."""
    code = f"{before}\nENGINE = {engine!r}\n{TRAIN}"
    command = [sys.executable, "-W", "ignore", "-c", code]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
