"""Readers of depth images with colour, and what they share."""
