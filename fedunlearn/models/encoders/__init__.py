"""Pre-trained speech encoders as emotion recognisers: wav2vec 2.0, HuBERT and WavLM.

checkpoint.py says which weights, model.py makes a recogniser of them, saving.py gives the trained one back as
an ordinary transformers folder, pretraining.py trains a small encoder from nothing.
"""

import os

# Read by transformers and huggingface_hub when they are first imported, which only this package does. Nobody
# is told what is run here, and what they have to say must not stand between the lines of a run.
for _name, _value in {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}.items():
    os.environ.setdefault(_name, _value)
