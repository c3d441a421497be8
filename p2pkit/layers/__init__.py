"""What the bytes of a store mean: geometry, features, superpixels and boxes, and digests of
their inputs.

How bytes lie on disk is `p2pkit.store`.
"""
