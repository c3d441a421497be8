"""Readers of labelled points without images, for evaluation."""
