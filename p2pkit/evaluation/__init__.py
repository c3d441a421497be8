"""Measures of what pretraining gave: retrieval without labels, a linear probe and IoU with them.

Nothing is imported here, so that segmentation scores come without torch.
"""
