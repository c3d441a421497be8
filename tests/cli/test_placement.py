import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_recording import write_recording

from p2pkit.cli.extract import own_device
from p2pkit.cli.progress import is_first, local_rank
from p2pkit.store.verifying import verify_store


def test_launchers_say_where_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_rank({}) is None
    assert local_rank({"SLURM_LOCALID": "3"}) == 3
    assert local_rank({"LOCAL_RANK": "1", "SLURM_LOCALID": "0"}) == 1
    assert local_rank({"LOCAL_RANK": "no"}) is None
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert own_device("cuda", visible=8) == "cuda:2"
    assert own_device("cuda", visible=1) == "cuda:0"
    assert own_device("cuda", visible=0) == "cuda"
    assert own_device("cpu", visible=8) == "cpu"
    assert own_device("cuda:7", visible=8) == "cuda:7"
    assert not is_first()
    monkeypatch.delenv("LOCAL_RANK")
    assert is_first()
    assert own_device("cuda", visible=8) == "cuda"


@pytest.mark.slow
def test_extraction_under_torchrun_makes_the_same_store(tmp_path: Path) -> None:
    """Two processes share the shards by claims; which of them writes one makes no difference."""
    source = write_recording(tmp_path / "room", 6)
    options = ["--teacher", "resnet18", "--layer", "1", "--weights", "random", "--shard-size", "2"]
    stores: list[dict[str, bytes]] = []
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.store"
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        done = subprocess.run(
            [
                *(sys.executable, *(launch if ranks > 1 else []), "-m", "p2pkit.cli.main"),
                *("extract", str(source), "--dataset", "posed-rgbd", "--out", str(out), *options),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{out}\n"
        assert done.stderr.count("6/6 frames [") == 1
        assert verify_store(out, deep=True).ok
        files = (path for path in out.rglob("*") if path.is_file() and ".claims" not in path.parts)
        stores.append({str(path.relative_to(out)): path.read_bytes() for path in files})
    assert stores[0] == stores[1]
