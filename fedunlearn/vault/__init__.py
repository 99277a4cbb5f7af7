"""A device's store of audio and features.

Reading order: ``vault`` -> ``index`` and ``arrays`` (its files) -> ``relocation`` (vaults on the nodes of a
cluster). ``calibration`` limits what a device reveals of its features; ``traces`` searches files for what
was deleted.
"""
