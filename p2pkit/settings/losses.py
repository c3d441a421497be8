"""Which loss, and its settings."""

from typing import Literal

from pydantic import Field

from p2pkit.errors import ConfigError
from p2pkit.settings import choices, option, settings_class

Negatives = Literal[
    "paper",
    "mask-same-cell",
    "mask-same-voxel",
    "mask-same-cell-or-voxel",
    "mask-similar",
]
REGRESSIONS = ("cosine", "l2")
"""Losses without negatives, which a trained pixel projection would bring to a constant."""
SOFT = "ppnce-soft"
"""The loss whose targets are the teacher's similarities."""
SUPERPIXEL = "superpixel"
"""The loss that compares superpixels instead of pairs."""


@settings_class
class LossConfig:
    """The objective."""

    name: str = Field(
        default="ppnce",
        description=f"The loss: {', '.join(choices.LOSSES)}. docs/losses.md describes each.",
        json_schema_extra=option("--loss"),
    )
    temperature: float = Field(
        default=0.04,
        gt=0,
        description="Divides the cosine similarities; 0.04 in PPKT, 0.07 in SLidR.",
    )
    negatives: Negatives = Field(
        default="paper",
        description="`paper` keeps all other sampled pixels as negatives; `mask-same-cell`, "
        "`mask-same-voxel` and `mask-same-cell-or-voxel` leave out those that share the anchor's "
        "cell or voxel, since their features are nearly the positive's; `mask-similar` those whose "
        "teacher feature has a cosine of at least `similarity` with the anchor's.",
    )
    confidence: Literal["ignore", "weight"] = Field(
        default="ignore",
        description="`ignore` weights all anchors equally; `weight` weights each by the confidence "
        "of its pair, which says how certain it is that the pixel sees the point; with the loss "
        "`superpixel` it weights the pairs within each superpixel.",
    )
    similarity: float = Field(
        default=0.95, gt=-1, le=1, description="Threshold (cosine) of `mask-similar`."
    )
    soft_temperature: float = Field(
        default=0.05,
        gt=0,
        description="Divides the teacher's similarities in the targets of `ppnce-soft`.",
    )
    across_ranks: bool = Field(
        default=False,
        description="With several processes, use the pixels of the others as negatives, too.",
    )

    def __post_init__(self) -> None:
        if self.name == SUPERPIXEL:
            self._refuse_masks_and_ranks(
                "compares superpixels", "compares the superpixels of one process, as SLidR does"
            )
        if self.name in REGRESSIONS:
            self._refuse_masks_and_ranks(
                "compares each pair with itself alone and has no negatives to mask",
                "has no negatives that other processes could add to",
            )

    def _refuse_masks_and_ranks(self, of_masks: str, of_ranks: str) -> None:
        if self.negatives != "paper":
            raise ConfigError(
                f"negatives is {self.negatives!r}, which masks pairs, but the loss {self.name!r} "
                f"{of_masks}: set negatives=paper"
            )
        if self.across_ranks:
            raise ConfigError(
                f"across_ranks is true, but the loss {self.name!r} {of_ranks}: set "
                "across_ranks=false"
            )

    @property
    def compares_teacher(self) -> bool:
        """Whether it depends on how alike the teacher finds two pixels."""
        return self.name == SOFT or self.negatives == "mask-similar"
