"""The weights that an evaluation compares: scratch, runs, and published checkpoints."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from p2pkit.errors import ConfigError, TrainingError
from p2pkit.files import sha256_file, sha256_json
from p2pkit.networks import build_student, load_student_weights
from p2pkit.networks.pretrained import description_of, read_weights
from p2pkit.networks.students import Student
from p2pkit.pipelines.train.checkpoints import chosen_checkpoint
from p2pkit.pipelines.train.model import WEIGHTS
from p2pkit.pipelines.train.run_folder import (
    read_config,
    read_provenance,
    student_settings,
    with_free_settings,
)
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.settings import config_to_json
from p2pkit.store.reading import Store
from p2pkit.stream.inputs import described_inputs, input_channels

SCRATCH = "scratch"
INPUTS = "inputs+position"
BASELINES = (SCRATCH, INPUTS)
"""Baselines without pretraining: random weights, and no network at all."""
READ_ATTEMPTS = 5
"""Attempts to read a checkpoint that a running training may replace."""


@dataclass(frozen=True, eq=False)
class ReadWeights:
    """A snapshot of weights, independent of later changes to their file.

    Args:
        identity: sha256 of the file, by which a figure knows what it measured; of `BASELINES` the
            name.
        content: what was in the file; None for random weights.
    """

    identity: str
    content: Mapping[str, Any] | None


@dataclass(frozen=True)
class ComparedWeights:
    """Weights by name, for one student; made by `compared_weights`.

    Args:
        train: settings of the student, those of the first run.
        runs: folders by name.
        checkpoints: files by name.
        which: checkpoint of the runs, `latest` or `best`.
        repeated: names of runs that differ in their seeds alone, in groups of two or more.
    """

    train: TrainConfig
    runs: dict[str, Path]
    checkpoints: dict[str, Path]
    which: str = "latest"
    repeated: tuple[tuple[str, ...], ...] = ()

    @property
    def names(self) -> list[str]:
        """Scratch first."""
        return [SCRATCH, *self.runs, *self.checkpoints]

    def read(self, name: str) -> ReadWeights:
        """The named weights and their identity, consistent even while the run is training.

        Raises:
            TrainingError: the checkpoint is missing or damaged, or changes at every attempt.
        """
        if name in BASELINES:
            return ReadWeights(name, None)
        # Newer checkpoints of a run push older ones out.
        may_vanish = (FileNotFoundError,) if name in self.runs else ()
        for _ in range(READ_ATTEMPTS):
            path = self._file(name)
            with suppress(*may_vanish):
                identity, content = sha256_file(path), read_weights(path)
                if sha256_file(path) == identity:
                    return ReadWeights(identity, content)
        raise TrainingError(
            f"the checkpoint of {name} was replaced {READ_ATTEMPTS} times while it was read; "
            "evaluate it when training has finished"
        )

    def student(self, name: str, seed: int, read: ReadWeights | None = None) -> Student:
        """The student with these weights; random ones depend on the seed alone.

        Args:
            name: of the weights.
            seed: of random ones.
            read: the result of `read`; None reads them now.
        """
        content = (self.read(name) if read is None else read).content
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 + seed)
            student = build_student(
                self.train.student,
                in_channels=input_channels(self.train.stream.sample),
                conv1_kernel_size=self.train.conv1_kernel_size,
                engine=self.train.engine,
                waffleiron=self.train.waffleiron,
            )
        if content is not None:
            prefix = "student." if name in self.runs else ""
            load_student_weights(student, content, prefix=prefix)
        return student

    def identity(self, name: str) -> str:
        """sha256 of the weights' file as it is now; see `ReadWeights`."""
        return name if name in BASELINES else sha256_file(self._file(name))

    def seen(self, store: Store, keys: Sequence[str]) -> dict[str, int | None]:
        """How many of these frames each run was trained on; None if it does not know the store.

        Pretraining uses no labels, but frames that it has seen are no test of new scenes.
        """
        return {
            name: read_provenance(folder).seen(store, keys) for name, folder in self.runs.items()
        }

    def _file(self, name: str) -> Path:
        if name in self.checkpoints:
            return self.checkpoints[name]
        return chosen_checkpoint(self.runs[name], self.which).path / WEIGHTS


def compared_weights(
    runs: Sequence[Path], checkpoints: Mapping[str, Path], which: str = "latest"
) -> ComparedWeights:
    """Read the runs' settings.

    Raises:
        ConfigError: the students of the runs differ, or a file says of its own that it is another;
            a name comes twice, or a file does not exist.
        TrainingError: a folder holds no run, or a file cannot be read.
    """
    configs = [read_config(folder) for folder in runs]
    wanted = _identity(configs[0])
    for folder, config in zip(runs, configs, strict=True):
        if _identity(config) != wanted:
            raise _not_comparable(folder, _identity(config), runs[0], wanted)
    for name, file in checkpoints.items():
        if not file.is_file():
            raise ConfigError(f"the checkpoint {name}={file} does not exist; expected a file")
        about = description_of(file, read_weights(file)) or {}
        said = {key: about[key] for key in wanted if about.get(key) is not None}
        if said != {key: wanted[key] for key in said}:
            raise _not_comparable(file, said, runs[0], wanted)
    own = [Path(os.path.abspath(folder)).name for folder in runs]  # of `.` too
    names = [*BASELINES, *own, *checkpoints]
    if len(set(names)) != len(names):
        raise ConfigError(f"the weights are named {names}; give each a different name")
    folders = dict(zip(own, runs, strict=True))
    repeated = _repeated(folders, configs, which)
    return ComparedWeights(configs[0], folders, dict(checkpoints), which, repeated)


def _repeated(
    folders: Mapping[str, Path], configs: Sequence[TrainConfig], which: str
) -> tuple[tuple[str, ...], ...]:
    """Names of runs of one recipe with different seeds, in groups of two or more.

    Settings that do not affect the weights and the stores' places may differ; the stores' contents
    and the steps that were trained may not.
    """
    groups: dict[str, dict[tuple[int, int], str]] = {}
    for (name, folder), config in zip(folders.items(), configs, strict=True):
        same = with_free_settings(config, configs[0])
        same = replace(same, seed=0, wandb=configs[0].wandb, store="", more_stores=())
        same = replace(same, stream=replace(same.stream, seed=0))
        uses = read_provenance(folder).stores
        stores = [(use.fingerprints, use.holdout) for use in uses]
        step = chosen_checkpoint(folder, which).step if which == "latest" else None
        recipe = sha256_json([config_to_json(same), stores, step])
        groups.setdefault(recipe, {}).setdefault((config.seed, config.stream.seed), name)
    return tuple(tuple(names.values()) for names in groups.values() if len(names) > 1)


def _not_comparable(
    file: Path, found: Mapping[str, Any], first: Path, wanted: Mapping[str, Any]
) -> ConfigError:
    return ConfigError(
        f"{file} has the student {found}, {first} has {wanted}: name, first kernel, voxels and "
        "inputs must agree, or their difference says nothing about pretraining"
    )


def _identity(config: TrainConfig) -> dict[str, Any]:
    sample = config.stream.sample
    # Heights and cylinders are along it; other inputs do not depend on the name.
    described = described_inputs(sample)
    named_up = "height" in described["inputs"] or sample.grid == "cylindrical"
    up = {"up_axis": list(sample.augment.up_axis)} if named_up and sample.augment.up_axis else {}
    return student_settings(config) | described | up
