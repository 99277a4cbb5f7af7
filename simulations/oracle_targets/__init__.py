"""An unlearn step that is told the answers: the study of ``simulations/oracle.py``, and of nothing else."""
