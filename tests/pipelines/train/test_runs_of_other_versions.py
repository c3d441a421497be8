"""A run's folder that another version wrote is refused with what to do."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_recording import tiny_train_config

from p2pkit.errors import ConfigError
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.run_folder import read_config
from p2pkit.settings import merged_tables


@pytest.fixture(scope="module")
def finished(room_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_train_config(room_store, steps=1, holdout=4)
    return train.run(config, tmp_path_factory.mktemp("other-versions") / "run")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"optimizer": {"beta": 0.9}}, "unknown setting 'optimizer.beta'"),
        ({"engine": "later"}, "engine is 'later'; choose one of auto, minkowski, torch"),
        ({"optimizer": {"clip_norm": -1.0}}, "optimizer.clip_norm is -1.0; must be at least 0"),
    ],
)
def test_settings_of_another_version_are_refused(
    finished: Path, tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    out = shutil.copytree(finished, tmp_path / "run")
    path = out / "config.json"
    path.write_text(json.dumps(merged_tables(json.loads(path.read_text()), settings)))
    with pytest.raises(ConfigError) as refused:
        read_config(out)
    assert str(refused.value).startswith(
        f"{path} was written by a development version of p2pkit ({reason}"
    )
    assert str(refused.value).endswith("; train again")
