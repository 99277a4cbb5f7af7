"""How fast and how large: each module measures one thing; ``simulations/benchmark.py`` asks them all."""
