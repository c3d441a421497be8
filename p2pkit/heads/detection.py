"""A small anchor-free head for 3D boxes on a sparse decoder's features at two strides.

Written from the descriptions of FCAF3D (Rukhovich et al., "FCAF3D: Fully Convolutional
Anchor-Free 3D Object Detection", ECCV 2022) and TR3D (Rukhovich et al., "TR3D: Towards Real-Time
Indoor 3D Object Detection", ICIP 2023): each occupied cell of a level predicts a score for every
class and one box, and the layers that do so are shared by the levels. Unlike FCAF3D nothing is
generated or pruned, as in TR3D only occupied cells predict, and there is no centerness.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from p2pkit.networks.cells import Cells

BOX_NUMBERS = 8
"""Offset of the middle (3), logarithms of the sides (3), sine and cosine of twice the yaw."""
PRIOR = 0.01
"""Score of every class before training, as in RetinaNet (Lin et al. 2017)."""
LARGEST_LOG = 4.0
"""Sides stay between 2 cm and 55 m, so that an untrained head cannot overflow."""


@dataclass(frozen=True, eq=False)
class CellBoxes:
    """What each cell of a batch predicts, all levels one after the other.

    Args:
        frame: batch index of each cell.
        level: number of its level, coarse first.
        location: middle of the cell, in upright axes (m).
        logits: of each class, independent of each other.
        center: middle of the box (m).
        size: sides of the box (m).
        turn: sine and cosine of twice its yaw, of any length: boxes look the same from behind.
    """

    frame: Int64[Tensor, " cells"]
    level: Int64[Tensor, " cells"]
    location: Float[Tensor, "cells 3"]
    logits: Float[Tensor, "cells classes"]
    center: Float[Tensor, "cells 3"]
    size: Float[Tensor, "cells 3"]
    turn: Float[Tensor, "cells 2"]

    @property
    def yaw(self) -> Float[Tensor, " cells"]:
        """About up, between -90 and 90 degrees (rad)."""
        return torch.atan2(self.turn[:, 0], self.turn[:, 1]) / 2


class DetectionHead(nn.Module):
    """Scores and one box for each cell of several levels.

    Args:
        channels: width of each level.
        classes: their number.
        width: of the layer that brings all levels to one width.
    """

    def __init__(self, channels: Sequence[int], classes: int, width: int = 128) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Linear(count, width), nn.LayerNorm(width), nn.ReLU())
            for count in channels
        )
        self.classify = nn.Linear(width, classes)
        self.regress = nn.Linear(width, BOX_NUMBERS)
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.constant_(self.classify.bias, -math.log((1 - PRIOR) / PRIOR))
        nn.init.normal_(self.regress.weight, std=0.01)
        nn.init.zeros_(self.regress.bias)

    def forward(
        self,
        levels: Sequence[Cells],
        voxel_size: float,
        upright_from_network: Float[Tensor, "3 3"],
    ) -> CellBoxes:
        """What the cells predict.

        Args:
            levels: of the decoder, coarse first.
            voxel_size: edge of a voxel of stride 1 (m).
            upright_from_network: from the axes of the voxels to those of the boxes.
        """
        rows = [layer(cells.rows) for layer, cells in zip(self.levels, levels, strict=True)]
        location = [(cells.places[:, 1:] + cells.stride / 2) * voxel_size for cells in levels]
        edge = [
            row.new_full((len(row), 1), cells.stride * voxel_size)
            for row, cells in zip(rows, levels, strict=True)
        ]
        level = [torch.full_like(cells.places[:, 0], i) for i, cells in enumerate(levels)]
        every = torch.cat(rows)
        where = torch.cat(location).to(every.dtype) @ upright_from_network.T.to(every.dtype)
        offset, sides, turn = self.regress(every).split((3, 3, 2), dim=1)
        return CellBoxes(
            frame=torch.cat([cells.places[:, 0] for cells in levels]),
            level=torch.cat(level),
            location=where,
            logits=self.classify(every),
            center=where + offset * torch.cat(edge),
            size=sides.clamp(-LARGEST_LOG, LARGEST_LOG).exp(),
            turn=turn,
        )
