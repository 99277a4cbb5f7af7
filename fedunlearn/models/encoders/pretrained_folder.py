"""Saving a pre-trained encoder as a transformers folder, whose README.md says what it was trained on."""

import copy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fedunlearn.audio import SAMPLE_RATE
from fedunlearn.files import write_atomically
from fedunlearn.folders import whole_folder
from fedunlearn.inputs import refuse_inside_corpus
from fedunlearn.models.encoders.checkpoint import quietly
from fedunlearn.models.encoders.pretraining import SPAN, Pretrained, Recipe
from fedunlearn.run_folder import RunFolder

_README = """---
library_name: transformers
tags: [speech, self-supervised, {kind}]
---
# A small {kind} encoder, trained from scratch

{parameters:,} parameters, saved as {precision}: {layers} transformer layers of width {hidden} over two
convolutions, of which the first was initialised with a mel filterbank (a frame of 25 ms every 20 ms, 16 kHz).
Made by `simulations/pretrain.py` of fedunlearn.

**Trained on:** {sources}; {recordings:,} recordings, {hours:.2f} h in all.
No labels were used. The encoder was trained on these speakers before any federation starts: a test on their
speech is not independent of them, and deleting their speech from a federation does not remove it from this
encoder.

**Training:** spans of {span} latent frames are masked, and the log-mel frames there are predicted (masked
regression). In addition the crop's log-mel functionals are predicted from every layer's mean over it, and
log-mel frames from the convolutions. Seed {seed}; torch {torch}, transformers {transformers}.

| setting | value |
|---|---|
{settings}

**Loss** (mean since the line above):

| steps | loss |
|---|---|
{curve}

```python
from transformers import AutoFeatureExtractor, AutoModel

encoder = AutoModel.from_pretrained("PATH OF THIS FOLDER")
extractor = AutoFeatureExtractor.from_pretrained("PATH OF THIS FOLDER")
```
"""


def check(folder: Path, data: Path | None = None) -> None:
    """Check that the folder can be created.

    Args:
        folder: the folder.
        data: corpus of the pre-training, which is never written to; None = generated speech.

    Raises:
        BadInput: it is not empty, cannot be written, or is inside ``data``.
    """
    RunFolder(folder).check()
    refuse_inside_corpus("--out", folder, data)


def write(
    folder: Path,
    pretrained: Pretrained,
    recipe: Recipe,
    sources: Sequence[str],
    seed: int,
    half: bool = False,
) -> None:
    """Save the encoder; an interruption leaves nothing behind.

    Args:
        folder: a new or empty folder.
        pretrained: the encoder.
        recipe: how it was trained.
        sources: descriptions of what it was trained on.
        seed: the seed.
        half: round the weights to float16 and save them so. They are loaded as float32, with these values.

    Raises:
        BadInput: the folder is no longer empty.
    """
    import torch
    import transformers

    check(folder)
    with whole_folder(folder) as unfinished:
        with quietly():
            encoder = copy.deepcopy(pretrained.encoder)
            (encoder.half() if half else encoder).save_pretrained(unfinished)
        transformers.Wav2Vec2FeatureExtractor(
            sampling_rate=SAMPLE_RATE, do_normalize=False, return_attention_mask=True
        ).save_pretrained(unfinished)
        settings = {k: v for k, v in asdict(recipe).items() if k not in {"kind", "hidden", "layers"}}
        text = _README.format(
            kind=recipe.kind,
            parameters=sum(p.numel() for p in pretrained.encoder.parameters()),
            precision="float16" if half else "float32",
            layers=recipe.layers,
            hidden=recipe.hidden,
            sources="; ".join(sources),
            recordings=pretrained.recordings,
            hours=pretrained.hours,
            span=SPAN,
            seed=seed,
            torch=torch.__version__,
            transformers=transformers.__version__,
            settings="\n".join(f"| {key} | {value} |" for key, value in settings.items()),
            curve="\n".join(f"| {steps} | {loss:.4f} |" for steps, loss in pretrained.curve),
        )
        write_atomically(unfinished / "README.md", text)
