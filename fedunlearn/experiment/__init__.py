"""The experimenter, who sees all: prepares, conducts, records and compares a run, and makes its results."""
