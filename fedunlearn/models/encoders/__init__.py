"""Pre-trained speech encoders as emotion recognisers: wav2vec 2.0, HuBERT and WavLM.

checkpoint.py finds and loads the weights, model.py makes a recogniser of them, saving.py saves the trained
one as an ordinary transformers folder, pretraining.py trains a small encoder from scratch.
"""

import os

# Read by transformers and huggingface_hub when they are first imported, which only this package does: no
# telemetry, and no output of theirs between the lines of a run.
for _name, _value in {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}.items():
    os.environ.setdefault(_name, _value)
