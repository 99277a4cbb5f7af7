"""What the experimenter measures: recognition, membership, the gap to retrained models, and costs."""
