"""Readers of labelled points without images, to evaluate on."""
