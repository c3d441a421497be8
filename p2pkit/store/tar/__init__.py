"""Shards as plain POSIX tar files."""
