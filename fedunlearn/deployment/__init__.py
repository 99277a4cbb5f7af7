"""Deployments: the same ClientApp and ServerApp on a SuperLink and SuperNodes, each a process of its own.

Reading order: ``local`` (what ``fedunlearn deploy-local`` does, read it first) -> ``federation`` (SuperLink
and SuperNodes) -> ``flower_programs`` (Flower's commands) -> ``credentials`` (certificates and keys),
``network`` (one machine as several hosts), ``memory`` (limits), ``processes`` (nothing is left behind) ->
``incidents`` (what is done to a device in the middle of a run) -> ``costs`` (what devices pay).
"""
