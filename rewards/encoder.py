"""Embeddings for the scorers: sentences as all-MiniLM-L6-v2 encodes them, each once, and its vectors of word pieces."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from safetensors.torch import load_file

from prompts.template import split_sentences
from storyrl import models

_REMEMBERED = 20_000  # sentences; 384 floats each, 30 MB


WIDTH = 384


class SentenceEncoder:
    """Turns sentences into unit vectors and remembers the latest ones.

    In float32 on every device, and in batches of like length, so that a sentence's vector does not depend on the batch
    beyond 1e-6.
    """

    def __init__(self, device: str = "auto"):
        from sentence_transformers import SentenceTransformer

        folder = str(models.pull("minilm"))
        self._model: Any = SentenceTransformer(folder, device=models.pick_device(device), local_files_only=True)
        self._known: OrderedDict[str, torch.Tensor] = OrderedDict()

    def encode(self, sentences: Sequence[str]) -> torch.Tensor:
        """Unit vectors [N, 384] on the CPU."""
        new = list(dict.fromkeys(sentence for sentence in sentences if sentence not in self._known))
        if new:
            vectors = self._model.encode(
                new, batch_size=64, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
            )
            self._known.update(zip(new, vectors.float().cpu().clone(), strict=True))
        result = [self._known[sentence] for sentence in sentences]
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return torch.stack(result) if result else torch.zeros(0, WIDTH)

    def encode_stories(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """Unit vectors [S, 384] of each text's S sentences; S = 0 for an empty text."""
        sentences = [split_sentences(text) for text in texts]
        vectors = self.encode([sentence for story in sentences for sentence in story])
        return list(vectors.split([len(story) for story in sentences]))


@cache
def shared_encoder(device: str = "auto") -> SentenceEncoder:
    """The one encoder of this process for a device."""
    return SentenceEncoder(device)


@cache
def tokenizer() -> Any:
    """The encoder's tokenizer, of word pieces in lower case."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(models.pull("minilm"), local_files_only=True)


@cache
def _word_vectors() -> torch.Tensor:
    """The vectors of word pieces from which the encoder starts, [V, 384]."""
    table = load_file(models.pull("minilm") / "model.safetensors")["embeddings.word_embeddings.weight"]
    return table.float()


def mean_word_vectors(texts: Sequence[str]) -> torch.Tensor:
    """Mean over each text's word pieces of their vectors, [B, 384], without running the network; 0 for an empty text.

    Words that are used alike have vectors alike, so what is learned of one holds a little for others.
    """
    table, means = _word_vectors(), torch.zeros(len(texts), WIDTH)
    rows = tokenizer()(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    for row, ids in enumerate(rows):
        if ids:
            means[row] = table[torch.tensor(ids)].mean(dim=0)
    return means
