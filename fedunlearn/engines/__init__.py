"""Engines, which run both apps: one process, Ray, a Ray cluster, or Flower's own simulation.

Reading order: ``engine`` (chooses and starts one) -> ``inline_grid`` (one process) -> ``ray_grid`` ->
``cluster_grid``. ``gpu_sharing`` divides a GPU among Ray's workers.
"""
