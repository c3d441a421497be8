"""evaluate: does pretraining help where labels are few? Probes, fine-tuning, and their report."""
