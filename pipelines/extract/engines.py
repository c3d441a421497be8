"""Who hands out an extraction's shards: this process and its like, or a Ray cluster."""

from collections.abc import Callable
from pathlib import Path

from p2pkit.errors import ConfigError
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.extract.run import Progress
from p2pkit.pipelines.extract.settings import ExtractConfig

Report = Callable[[Progress], None]


def _local(config: ExtractConfig, address: str | None, progress: Report) -> Path:
    if address is not None:
        raise ConfigError(f"the engine local has no address, but {address!r} was given")
    return extract.run(config, progress=progress)


def _ray(config: ExtractConfig, address: str | None, progress: Report) -> Path:
    from p2pkit.pipelines.extract.ray import run

    return run(config, address=address, progress=progress)


ENGINES: dict[str, Callable[[ExtractConfig, str | None, Report], Path]] = {
    "local": _local,
    "ray": _ray,
}


def run_on(engine: str, config: ExtractConfig, *, progress: Report | None = None) -> Path:
    """`extract.run`, its shards handed out by an engine, `NAME` or `NAME://ADDRESS`.

    Raises:
        ConfigError: there is no engine of that name, or it takes no address.
        MissingDependencyError: its package is not installed.
    """
    name, separator, address = engine.partition("://")
    if name not in ENGINES:
        raise ConfigError(f"unknown engine {name!r}; choose one of {', '.join(ENGINES)}")
    if separator and not address:
        raise ConfigError(f"engine {engine!r} lacks the address after ://; leave :// out for none")
    return ENGINES[name](config, address or None, progress or (lambda report: None))
