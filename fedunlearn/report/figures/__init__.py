"""Figures of a run: ``style`` is common to all, ``export`` writes them as files for publications."""
