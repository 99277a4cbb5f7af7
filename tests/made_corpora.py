"""Corpora named as each reader expects them: all speakers of the real one, few recordings of each."""

from itertools import product
from pathlib import Path

import numpy as np
import soundfile

from fedunlearn.audio import SAMPLE_RATE


def names_of(reader: str) -> list[str]:
    """Files of a corpus, without their endings: every speaker says a few sentences in every emotion."""
    if reader == "ravdess":
        spoken = product(range(1, 25), range(1, 9), (1, 2), (1, 2))
        return [f"Actor_{a:02d}/03-01-{e:02d}-01-{s:02d}-{t:02d}-{a:02d}" for a, e, s, t in spoken]
    if reader == "crema-d":
        spoken = product(range(1001, 1092), ("DFA", "IEO"), ("NEU", "HAP", "SAD", "ANG", "FEA", "DIS"))
        return [f"AudioWAV/{actor}_{sentence}_{emotion}_XX" for actor, sentence, emotion in spoken]
    if reader == "emodb":
        speakers = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")
        spoken = product(speakers, ("a01", "a02", "b03"), "NFTWAEL")
        return [f"wav/{speaker}{sentence}{emotion}a" for speaker, sentence, emotion in spoken]
    if reader == "nemo":
        speakers = ("KS0", "MP0", "SM0", "TP0", "WR0", "EB0", "IC0", "KD0", "MK0")
        emotions = ("neutral", "happiness", "sadness", "anger", "fear", "surprised")
        return [f"samples/{s}_{e}_{n}" for s, e, n in product(speakers, emotions, range(1, 4))]
    if reader == "iemocap":
        spoken = product(range(1, 6), "FM", range(12))
        folder = "Session{0}/sentences/wav/Ses{0:02d}F_impro01/Ses{0:02d}F_impro01_{1}{2:03d}"
        return [folder.format(*turn) for turn in spoken]
    if reader == "tess":
        spoken = product(("OAF", "YAF"), ("back", "bar", "bite"), ("neutral", "happy", "sad", "angry", "ps"))
        return [f"{speaker}_{word}_{emotion}" for speaker, word, emotion in spoken]
    if reader == "savee":
        spoken = product(("DC", "JE", "JK", "KL"), ("n", "h", "sa", "a", "f", "d", "su"), range(1, 5))
        return [f"AudioData/{speaker}/{emotion}{n:02d}" for speaker, emotion, n in spoken]
    if reader == "shemo":
        speakers = [f"F{n:02d}" for n in range(1, 32)] + [f"M{n:02d}" for n in range(1, 57)]
        return [f"{s}{emotion}{n:02d}" for s, emotion, n in product(speakers, "NHSAFW", (1, 2))]
    if reader == "manifest":
        return [f"p{n:02d}-{emotion}-{take}" for n, emotion, take in product(range(12), "abc", range(4))]
    raise ValueError(reader)


def make_corpus(folder: Path, reader: str, sound: bool = False) -> Path:
    """Write a corpus; its files are empty unless ``sound``, which is noise of a quarter of a second."""
    names = names_of(reader)
    for name in names:
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        if sound:
            noise = np.random.default_rng(list(name.encode())).integers(-9000, 9000, SAMPLE_RATE // 4)
            soundfile.write(path, noise.astype(np.int16), SAMPLE_RATE)
        else:
            path.touch()
    if reader == "iemocap":
        labels = folder / "Session1" / "dialog" / "EmoEvaluation" / "all.txt"
        labels.parent.mkdir(parents=True)
        emotions = ("neu", "hap", "sad", "ang")
        lines = [
            f"[1.0 - 2.0]\t{name.rpartition('/')[2]}\t{emotions[i % 4]}\t[2.5, 2.5, 2.5]"
            for i, name in enumerate(names)
        ]
        labels.write_text("\n".join(lines))
    if reader == "manifest":
        rows = [f"{name}.wav,{','.join(name.split('-')[:2])}" for name in names]
        (folder / "manifest.csv").write_text("\n".join(["path,speaker,emotion", *rows]))
    return folder
