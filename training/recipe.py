"""Recipe of the embedded model: shape, tokenizer, data and batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import GPTNeoXConfig

END_OF_TEXT = "<|endoftext|>"
"""Token before every document, and so also after every document: it is the model's BOS and its EOS."""

END_OF_TEXT_ID = 0


@dataclass(frozen=True)
class Recipe:
    """All settings that determine the weights, up to the order of floating-point sums."""

    vocabulary: int = 4096
    layers: int = 6
    width: int = 224
    heads: int = 7
    context: int = 512
    rows: int = 8
    steps: int = 5000
    warmup: int = 100
    cooldown: float = 0.5
    learning_rate: float = 6e-3
    weight_decay: float = 0.05
    seed: int = 0

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then constant, then linear to zero over the `cooldown` share."""
        up = min(1.0, (step + 1) / max(1, self.warmup))
        down = min(1.0, (self.steps - step) / max(1.0, self.cooldown * self.steps))
        return self.learning_rate * min(up, down)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer: every string encodes, and every encoding decodes to exactly this string."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def model_config(recipe: Recipe) -> GPTNeoXConfig:
    """Create the GPT-NeoX configuration: parallel residual, rotary positions on 1/4 of each head, untied embeddings."""
    from transformers import GPTNeoXConfig

    return GPTNeoXConfig(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=4 * recipe.width,
        max_position_embeddings=recipe.context,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
        use_parallel_residual=True,
        hidden_act="gelu",
        tie_word_embeddings=False,
        bos_token_id=END_OF_TEXT_ID,
        eos_token_id=END_OF_TEXT_ID,
        use_cache=True,
    )


def encode_documents(tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    """Encode each text as token ids, without end-of-text tokens."""
    return [np.asarray(e.ids, dtype=np.int32) for e in tokenizer.encode_batch(texts, add_special_tokens=False)]


class Batches:
    """Batches of rows of `context` + 1 tokens, drawn from shuffled passes over the documents.

    Each row starts with end-of-text. Batch `step` depends only on the seed and the step, so a resumed training gets the
    batches that it would have got without the interruption.
    """

    def __init__(self, documents: list[np.ndarray], recipe: Recipe) -> None:
        self.documents = documents
        self.recipe = recipe
        self.tokens = sum(len(d) + 1 for d in documents)
        self.per_epoch = self.tokens // (recipe.context * recipe.rows)
        if self.per_epoch == 0:
            raise ValueError(
                f"{self.tokens:,} tokens of text are fewer than one batch of {recipe.context * recipe.rows:,} tokens."
            )
        self._epoch, self._rows = -1, np.empty((0, 0), dtype=np.int32)

    def __getitem__(self, step: int) -> np.ndarray:
        """Token ids `[rows, context + 1]` of one training step."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._pack(epoch)
        return self._rows[index * self.recipe.rows : (index + 1) * self.recipe.rows]

    def _pack(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.recipe.seed, epoch])
        parts: list[np.ndarray] = []
        separator = np.array([END_OF_TEXT_ID], dtype=np.int32)
        for i in rng.permutation(len(self.documents)):
            parts += [separator, self.documents[i]]
        stream = np.concatenate(parts)
        body = stream[: self.per_epoch * self.recipe.rows * self.recipe.context].reshape(-1, self.recipe.context)
        rows = np.concatenate([np.full((len(body), 1), END_OF_TEXT_ID, dtype=np.int32), body], axis=1)
        return rows[rng.permutation(len(rows))]
