"""The store, format 1: layers of shards that are read by byte ranges with every checksum verified.

docs/format.md describes the files. `create_or_open` writes, `open_store` reads.
"""

from p2pkit.shards.codecs import choose_map_codec
from p2pkit.shards.map_coding import pca_basis
from p2pkit.shards.model import FieldSpec, LayerSpec, Manifest, Plan, Sample
from p2pkit.shards.plan import plan_shards
from p2pkit.shards.record import ShardRecord
from p2pkit.shards.storage import STORAGES
from p2pkit.shards.store import Store, open_store
from p2pkit.shards.writer import StoreWriter, create_or_open

__all__ = [
    "STORAGES",
    "FieldSpec",
    "LayerSpec",
    "Manifest",
    "Plan",
    "Sample",
    "ShardRecord",
    "Store",
    "StoreWriter",
    "choose_map_codec",
    "create_or_open",
    "open_store",
    "pca_basis",
    "plan_shards",
]
