"""The store, format 1: shards on disk that are read by byte ranges with every checksum verified.

docs/format.md describes the files. `writing.create_or_open` writes, `reading.open_store` reads.
What the bytes mean is `p2pkit.layers`.
"""
