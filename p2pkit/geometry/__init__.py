"""From depth to points, voxels and pixels, and from pixels to the cells of a teacher's map.

Nothing is imported here, so that `p2pkit.geometry.camera` stays cheap: numba is loaded by the
modules that compile kernels (`backproject`, `voxelize`, `project`, `sample_map`) only.
"""

KERNEL_VERSION = 2
"""Part of a store's fingerprint: raised when a kernel's results change in any bit."""
