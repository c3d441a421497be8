import pytest

from p2pkit.cli.commands.extract import own_device
from p2pkit.cli.progress import is_first, local_rank


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
