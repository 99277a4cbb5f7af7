"""Speed and size: each module measures one thing; ``simulations/benchmark.py`` runs them all."""
