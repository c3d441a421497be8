"""Recordings as sources of frames: readers by kind of sensor, and the registry of their names."""
