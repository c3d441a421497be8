"""Batch norm of voxels, of which a small frame has a single one at a deep stride."""

from torch import Tensor, nn


class VoxelNorm1d(nn.BatchNorm1d):
    """`BatchNorm1d` that takes the variance of a single row to be 0 in training.

    torch refuses such a row, which would end training, a probe or an evaluation at one small frame.
    Here it becomes the bias, and the running statistics stay: one row says nothing of the spread.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise rows [voxels, channels]."""
        if self.training and len(input) == 1:
            return 0 * input * self.weight + self.bias
        return super().forward(input)
