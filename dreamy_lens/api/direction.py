"""Directions from data, from files and from weights: `direction`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dreamy_lens._host import working
from dreamy_lens.analysis.direction_files import load_direction
from dreamy_lens.analysis.directions import (
    difference,
    neuron_weights,
    sae_weights,
    token_embedding,
    token_unembedding,
)
from dreamy_lens.errors import names_keywords
from dreamy_lens.features.directions import Direction
from dreamy_lens.models.load import as_hooked


class _Directions:
    """Constructor of directions: `direction(numbers)`, and methods that compute or read one."""

    def __call__(self, source: Any, name: str | None = None) -> Direction:
        """Return the direction that numbers, a file or the text of a direction give.

        Args:
            source: Vector `[d]` as a list, array or tensor; path of a file; or a direction.
            name: Name for titles and tables, of words.

        >>> direction([0.0, 1.0, 0.0], name="second unit")
        Direction([0, 1, 0], name='second unit')
        """
        return Direction(source, name)

    @names_keywords
    def difference(
        self,
        positive: Any,
        negative: Any,
        hook: Any,
        model: Any = None,
        *,
        method: str = "mean",
        position: Any = None,
        prepend_bos: bool | None = None,
        add_generation_prompt: bool = True,
        shrinkage: float | None = None,
        penalty: float = 1.0,
        name: str | None = None,
        batch_size: int | None = None,
    ) -> Direction:
        """Compute the direction that leads from the activations of some texts to those of other texts.

        Args:
            positive: Texts of the side that the direction points to: a list of texts, token ids or chats, or one of
                these. A chat is a list of messages, which the tokenizer's own chat template writes.
            negative: Texts of the other side.
            hook: Name of a hook point, such as ``blocks.2.hook_resid_post``, or an expression that leaves its units,
                such as ``hook("blocks.1.attn.hook_z")[-1, 3]``, or ``hook(name)[-1].on(other)`` of another model.
            model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
            method: "mean" is the difference of the means of the two sides. "whitened" multiplies it by the inverse of
                the covariance within the sides, so that units that vary anyway count less. "probe" is the weights of a
                logistic regression that tells the sides apart, in log-odds per unit of the activation.
            position: Position whose activation stands for a text: an integer, "bos", "mean" for the mean over all
                positions without the BOS, or a slice for the mean over it. None is the last token.
            prepend_bos: Whether a BOS stands before every text; None is the model's convention.
            add_generation_prompt: Whether a chat ends where the model would answer. If its last message is the
                assistant's, that is where the answer goes on; otherwise the chat ends with the end of its last turn.
            shrinkage: For "whitened", the share of the covariance that is replaced by a multiple of the identity, above
                0, up to 1. None is the estimate of Ledoit and Wolf.
            penalty: For "probe", the weight of the squared weights against the sum of the log-losses, where activations
                are measured in their root mean square.
            name: Name for titles and tables, of words.
            batch_size: Most texts in one forward pass; None chooses the number.

        Returns:
            The direction, float32 `[d]`. Its origin says what it was made from.

        Raises:
            FeatureError: The hook leaves no vector, a side has no texts, or the two sides do not differ there.
            PromptError: A text is empty or too long for the model.
            SettingsError: A setting or a keyword does not exist.

        >>> v = direction.difference(["return x", "return y"], ["import x", "import y"], "blocks.1.hook_resid_post")
        >>> print(v.origin)
        difference of the means of 2 and 2 texts, blocks.1.hook_resid_post[-1] of embedded
        """
        hooked = as_hooked(model)
        with working("Reading the activations of the texts"):
            return difference(
                positive,
                negative,
                hook,
                hooked,
                method=method,
                position=position,
                prepend_bos=prepend_bos,
                add_generation_prompt=add_generation_prompt,
                shrinkage=shrinkage,
                penalty=penalty,
                name=name,
                batch_size=batch_size,
            )

    @names_keywords
    def load(self, path: str | Path, row: int | tuple[int, ...] = (), *, name: str | None = None) -> Direction:
        """Read a direction from a file, as numbers: a run that uses it holds all that it needs.

        Args:
            path: A ``.safetensors``, ``.npy`` or ``.pt`` file; ``file.safetensors:name`` and ``file.pt:key`` choose one
                of several vectors. Code in a file is never run.
            row: Row of an array of several vectors, such as ``12`` of `[layer, d]` or ``(-1, 12)`` of
                `[position, layer, d]`.
            name: Name of the direction; None takes the name that the file states.

        Raises:
            FeatureError: There is no such file, or no such vector in it.
        """
        return load_direction(path, row, name)

    @names_keywords
    def embedding(self, token: str | int, model: Any = None, *, name: str | None = None) -> Direction:
        """Return the embedding of a token, with any scaling of the architecture.

        Args:
            token: Text of exactly one token, or its id.
            model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
            name: Name of the direction.

        >>> print(direction.embedding(" the").origin)
        embedding of ' the' (id 269), embedded
        """
        return token_embedding(token, as_hooked(model), name)

    @names_keywords
    def unembedding(self, token: str | int, model: Any = None, *, name: str | None = None) -> Direction:
        """Return the column of the unembedding that gives the logit of a token, after the last norm.

        Args:
            token: Text of exactly one token, or its id.
            model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
            name: Name of the direction.
        """
        return token_unembedding(token, as_hooked(model), name)

    @names_keywords
    def neuron(
        self, layer: int, index: int, weights: str = "output", model: Any = None, *, name: str | None = None
    ) -> Direction:
        """Return the weights of an MLP neuron, as a direction in the residual stream.

        Args:
            layer: Index of the layer, from 0.
            index: Index of the neuron in its layer, from 0.
            weights: "output" for what the neuron writes, "input" for what it reads after the norm, "gate" for what its
                gate reads, if the MLP has gates.
            model: TransformerBridge, Hugging Face id, or folder of a model; None is the embedded model.
            name: Name of the direction.

        >>> len(direction.neuron(2, 17)) == len(direction.neuron(2, 17, "input"))
        True
        """
        return neuron_weights(layer, index, weights, as_hooked(model), name)

    @names_keywords
    def sae_latent(
        self,
        sae: Any,
        latent: int,
        weights: str = "decoder",
        *,
        hook: str | None = None,
        ignore: str | Iterable[str] | None = None,
        sae_id: str | None = None,
        name: str | None = None,
    ) -> Direction:
        """Return the decoder row or the encoder weights of a latent of a sparse autoencoder.

        Args:
            sae: Folder or object, as :func:`dreamy_lens.sae_latent` takes it.
            latent: Index of the latent, from 0.
            weights: "decoder" for what the latent writes, "encoder" for what it reads.
            hook: Hook point of the autoencoder, if it does not name it.
            ignore: Conditions of its training that are not kept.
            sae_id: Dictionary within the source: a folder of a repository, or the id in a release.
            name: Name of the direction.
        """
        return sae_weights(sae, latent, weights, hook, ignore, sae_id, name)

    def __repr__(self) -> str:
        return (
            "<function direction, with direction.difference, .load, .embedding, .unembedding, .neuron and .sae_latent>"
        )


direction = _Directions()
