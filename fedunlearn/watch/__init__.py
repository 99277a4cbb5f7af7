"""A run that is going on, seen from outside: ``view`` reads its folder, ``terminal`` and ``server`` show it.

Everything here only reads. The run knows nothing of it.
"""
