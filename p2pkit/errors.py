"""The errors that p2pkit raises on purpose, as one tree.

    P2pkitError
    ├── ConfigError              a setting is unknown, of the wrong type, or contradicts another
    │   └── NoLabelsError        frames that need labels have none
    ├── SourceError              a recording or its calibration cannot be used at all
    │   └── FrameError           one frame is bad; the run records it and continues
    ├── GeometryError            a camera, transform or depth makes no geometric sense
    ├── TeacherError             a 2D network or its weights cannot be used
    │   ├── TeacherMemoryError   its device has too little memory for the images of a batch
    │   └── BadMapError          the map of one image holds what cannot be stored
    ├── StoreError               a store cannot be read, written or combined
    │   ├── CorruptShardError    bytes differ from their checksum, size or index
    │   ├── DevelopmentStoreError  a version before the first release wrote it, in another form
    │   └── FingerprintError     stored data was made from other inputs than the requested ones
    ├── TrainingError            a training run cannot start or continue
    └── MissingDependencyError   an optional part is missing; names the command that installs it

A message says what is wrong, which value, what is allowed, and what to do.
"""


class P2pkitError(Exception):
    """Base of every error that p2pkit raises on purpose; the command line prints it as one line."""


class ConfigError(P2pkitError):
    """A setting is unknown, of the wrong type, or contradicts another."""


class NoLabelsError(ConfigError):
    """Frames that need labels have none."""


class SourceError(P2pkitError):
    """A recording or its calibration cannot be used at all."""


class FrameError(SourceError):
    """One frame is bad. `extract` writes `key` and `reason` to failures.jsonl and continues.

    Args:
        key: the frame's key.
        reason: what is wrong, with the value that shows it.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"frame {key}: {reason}")
        self.key = key
        self.reason = reason


class GeometryError(P2pkitError):
    """A camera, transform or depth makes no geometric sense."""


class TeacherError(P2pkitError):
    """A 2D network or its weights cannot be used."""


class TeacherMemoryError(TeacherError):
    """A teacher's device has too little memory for a batch; fewer images may fit."""


class BadMapError(TeacherError):
    """The map of one image holds what float16 cannot: NaN, or values that are too large.

    Args:
        reason: the whole message.
        image: number of the image among those given to the teacher.
    """

    def __init__(self, reason: str, image: int) -> None:
        super().__init__(reason)
        self.image = image


class StoreError(P2pkitError):
    """A store cannot be read, written or combined."""


class CorruptShardError(StoreError):
    """Bytes of a shard differ from their checksum, size or index.

    Args:
        shard: path of the shard's file.
        reason: what differs.
        key: sample key, where one sample is concerned.
        field: field name, where one field is concerned.
    """

    def __init__(
        self, shard: str, reason: str, *, key: str | None = None, field: str | None = None
    ) -> None:
        where = "".join(
            f", {name} {value}" for name, value in (("key", key), ("field", field)) if value
        )
        super().__init__(f"shard {shard}{where}: {reason}")
        self.shard = shard
        self.reason = reason
        self.key = key
        self.field = field


class DevelopmentStoreError(StoreError):
    """A store is in a form that only versions before the first release wrote; it is not damaged.

    Args:
        where: the manifest.
    """

    def __init__(self, where: str) -> None:
        super().__init__(
            f"{where} was written by a development version of p2pkit, in a form that this version "
            "does not read; extract the recording again"
        )


class FingerprintError(StoreError):
    """Stored data was made from other inputs than the requested ones."""


class TrainingError(P2pkitError):
    """A training run cannot start or continue."""


class MissingDependencyError(P2pkitError):
    """An optional part is not installed; the message names the command that installs it."""


def first_line(error: Exception) -> str:
    """The first line of another library's message, or the error's name if it is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def counted(count: int, noun: str) -> str:
    """A number of things for a message: `1 frame`, `2 frames`."""
    return f"{count} {noun}{'s' * (count != 1)}"
