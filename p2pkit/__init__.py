"""Pretrain 3D networks from 2D networks: pixel-to-point contrastive knowledge transfer.

Importing this module is cheap: no torch, no numba. Each stage lives in its own subpackage.
"""

__version__ = "0.1.0"
