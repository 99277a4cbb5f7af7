"""Privileged baselines: methods that see more than the forget set, one file each."""
