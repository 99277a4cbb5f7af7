"""What carries messages between the apps: one process, Ray, a Ray cluster, or Flower's own simulation."""
