"""How a recording is read: settings that several stages share."""

from typing import Any

from pydantic import Field

from p2pkit.settings import option

CAMERA: Any = Field(
    default=None,
    description="Calibration to use in place of the recording's own, for posed-rgbd, tum and "
    "lerobot.",
    json_schema_extra=option(),
)
DEPTH_UNITS: Any = Field(
    default=None,
    gt=0,
    description="Units per metre of stored depth images, such as 1000 for millimetres, in place of "
    "what the recording says.",
    json_schema_extra=option(),
)
EVERY: Any = Field(
    default=1,
    ge=1,
    description="Take only every N-th frame of each sequence.",
    json_schema_extra=option(metavar="N"),
)
LIMIT: Any = Field(
    default=None,
    ge=1,
    description="Stop after N frames of the recording; by default all are taken.",
    json_schema_extra=option(metavar="N"),
)
STREAMS: Any = Field(
    default=(),
    description="Topics of a ROS bag, or cameras of a LeRobot dataset, to read where several fit, "
    "separated by commas.",
    json_schema_extra=option(metavar="A,B"),
)
FLYING_MARGIN = 0.02
"""Of depth by which a pixel must float between the sides of an edge to be dropped."""
