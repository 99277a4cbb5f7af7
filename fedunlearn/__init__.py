"""fedunlearn: federated, on-device unlearning for speech emotion recognition.

Reading order is the order of the story: audio, corpora, partition, vault, models, training, deletion,
unlearning, federation, evaluation, report.
"""

__version__ = "0.1.0"
