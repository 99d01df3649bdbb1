"""What a parameter is: that says how it starts, whether it decays, and whether it takes part in matrix products."""

from enum import StrEnum


class Role(StrEnum):
    """What a parameter of an attention layer is for.

    Without a word from its layer, a parameter's name and dimensions tell, as in GPT-2: of two or more dimensions it is
    `OUTPUT` where the name ends in `c_proj.weight`, otherwise `WEIGHT`; below, it is `BIAS` where the name ends in
    `bias`, otherwise `GAIN`.
    """

    WEIGHT = "weight"
    """a matrix of products: starts as N(0, 0.02), decays"""
    OUTPUT = "output"
    """a matrix into the residual stream: starts as N(0, 0.02 / sqrt(2 n_layer)), decays"""
    BIAS = "bias"
    """starts at 0, does not decay"""
    GAIN = "gain"
    """a factor: starts at 1, does not decay"""
    OWN = "own"
    """no weight of products: filled by the layer's own `init_parameters`, does not decay"""

    @property
    def decays(self) -> bool:
        """Whether weight decay pulls it toward zero."""
        return self in (Role.WEIGHT, Role.OUTPUT)


def usual_role(name: str, dimensions: int) -> Role:
    """Return the role of a parameter of which its layer says nothing."""
    if dimensions >= 2:
        return Role.OUTPUT if name.endswith("c_proj.weight") else Role.WEIGHT
    return Role.BIAS if name.endswith("bias") else Role.GAIN
