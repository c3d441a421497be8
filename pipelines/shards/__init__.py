"""The commands of `p2pkit shards` that copy stores or make others from them."""
