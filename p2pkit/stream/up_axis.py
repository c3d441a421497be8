"""Which way is up in a store's points."""

from p2pkit.shards.model import GEOMETRY
from p2pkit.shards.store import Store
from p2pkit.stream.augment import Axis

CAMERA_UP: Axis = (0.0, -1.0, 0.0)
Z_UP: Axis = (0.0, 0.0, 1.0)


def stored_up(store: Store) -> Axis:
    """-y of depth cameras; z of point frames: of LiDARs, fused frames and rooms."""
    fields = {spec.name for spec in store.layer(GEOMETRY).fields}
    return Z_UP if "points" in fields else CAMERA_UP
