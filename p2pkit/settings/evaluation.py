"""How a linear probe is fitted."""

from pydantic import Field

from p2pkit.settings import Seed, settings_class


@settings_class
class ProbeConfig:
    """The linear classifier on frozen features."""

    l2: float = Field(
        default=1e-4,
        ge=0,
        description="Weight decay: l2 / 2 times the squared weights (not the biases) is added to "
        "the mean cross-entropy of the standardised features.",
    )
    balanced: bool = Field(
        default=False, description="Weight each class inversely to its number of points."
    )
    max_points: int = Field(
        default=100_000, ge=1, description="Maximum number of rows; more are thinned at random."
    )
    iterations: int = Field(
        default=200, ge=1, description="Most iterations of L-BFGS; it stops earlier once converged."
    )
    seed: Seed = Field(
        default=0, description="Random seed of the thinning; the fit itself starts at zero."
    )
