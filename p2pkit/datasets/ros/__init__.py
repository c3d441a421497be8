"""Readers of ROS bags: depth images with colour, and sweeps with cameras."""
