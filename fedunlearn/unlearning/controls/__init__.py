"""Controls: what a report must not take for unlearning, one file each."""
