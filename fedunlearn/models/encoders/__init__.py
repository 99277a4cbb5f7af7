"""Pre-trained speech encoders as emotion recognisers: wav2vec 2.0, HuBERT and WavLM.

checkpoint.py says which weights, model.py makes a recogniser of them, saving.py gives the trained one back as
an ordinary transformers folder, pretraining.py trains a small encoder from nothing.
"""
