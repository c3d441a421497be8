"""Readers of LiDAR sweeps with cameras, and what they share."""
