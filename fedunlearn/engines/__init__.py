"""Engines, which run both apps: one process, Ray, a Ray cluster, or Flower's own simulation."""
