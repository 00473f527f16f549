"""Models, texts and features of the quality benchmark.

A feature is named by a text: `L2.N17` is an MLP neuron; `direction L3.S0` is the standardised residual stream after
block 3, projected on the direction of seed 0 (Eq. 4); `latent L2.F3` is latent 3 of a small SAE after block 2, whose
weights are random with a fixed seed; every other text is an expression of dreamy_lens.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LENGTH, WINDOWS = 12, 512
SAE_WIDTH, SAE_BIAS, SAE_SEED = 64, -0.5, 20240201
LEAST_VALUE = 1e-4
"""A neuron or latent that is not above this value on any natural window never fires."""

FEATURES = {
    "embedded": {
        "tune": ["L0.N56", "L2.N812", "L5.N700", "direction L3.S0", 'logit(" the") - logit(" a")'],
        "report": ["L2.N56", "L4.N100", "direction L1.S2", 'logit(" is") - logit(" was")', "latent L4.F5"],
    },
    "stories260K": {
        "tune": ["L0.N17", "L2.N86", "L4.N140", "direction L2.S1", 'logit(" do")'],
        "report": ["L1.N111", "L3.N60", "direction L3.S2", 'logit(" he") - logit(" she")', "latent L2.F8"],
    },
    "gutenberg": {
        "tune": ["L0.N5", "L1.N77", "L3.N300", "direction L2.S1", 'logit(" the") - logit(" a")'],
        "report": ["L1.N450", "L2.N321", "direction L1.S2", 'logit(" he") - logit(" was")', "latent L2.F2"],
    },
}
"""Features of each model: those on which settings may be tuned, and those of which figures are reported."""

TEXTS = {"stories260K": "tinystories-train-1000.txt", "gutenberg": "gutenberg-9mb.txt"}
"""Files of the shared folder `corpora/` with the text on which a model was trained."""

BLOCKS = ("model.layers", "gpt_neox.layers", "transformer.h")
"""Names of the list of blocks in plain Hugging Face models."""


class Refused(Exception):
    """A model or feature cannot be measured; the message says why."""


def shared_folder() -> Path:
    """Folder of material that is not in the repository: DREAMY_LENS_SHARED, or the folder beside the checkout."""
    given = os.environ.get("DREAMY_LENS_SHARED")
    return Path(given) if given else Path(__file__).resolve().parents[2] / "shared"


@dataclass
class Model:
    """Model of the benchmark.

    Attributes:
        name: Name in tables and files.
        path: Folder of the model; None for the embedded model.
        hooked: Model with hook points.
        corpus: File with text that the model was trained on; None for Python's documentation.
    """

    name: str
    path: Path | None
    hooked: Any
    corpus: Path | None

    @classmethod
    def load(cls, name: str, folder: Path, paths: dict[str, str], corpora: dict[str, str]) -> Model:
        """Load a model by its name.

        Args:
            name: "embedded", "stories260K", "gutenberg", or a name in `paths`.
            folder: Folder of the benchmark, in which the model "gutenberg" is trained.
            paths: Folders of models, by name.
            corpora: Text files of models, by name; the default is `TEXTS`, otherwise Python's documentation.
        """
        import dreamy_lens as dl
        from dreamy_lens.models.load import as_hooked

        known = {"stories260K": shared_folder() / "models" / "stories260K", "gutenberg": folder / "gutenberg"}
        path = Path(paths[name]) if name in paths else known.get(name)
        if path is None and name != "embedded":
            raise Refused(f"The model {name!r} is unknown; name its folder: --model {name}=PATH.")
        if path is not None and not (path / "config.json").is_file():
            advice = f"train it: quality.py train {folder}" if name == "gutenberg" else "check the path"
            raise Refused(f"The model {name} is not in {path}; {advice}. DREAMY_LENS_SHARED names the shared folder.")
        default = shared_folder() / "corpora" / TEXTS[name] if name in TEXTS else None
        corpus = Path(corpora[name]) if name in corpora else default
        if corpus is not None and not corpus.is_file():
            raise Refused(f"The text of {name} is not in {corpus}; name a file: --corpus {name}=PATH.")
        return cls(name, path, as_hooked(dl.load_model(path, device="cpu")), corpus)

    def features(self, half: str) -> list[str]:
        """List the names of the features of a half: "tune", "report", or "all"."""
        halves = FEATURES.get(self.name) or default_features(self.hooked)
        return [*halves["tune"], *halves["report"]] if half == "all" else halves[half]

    @functools.cached_property
    def windows(self) -> np.ndarray:
        """Windows of natural text, int64 `[512, 12]`, drawn with a fixed seed."""
        texts, vocabulary, rng = self._texts(), self.hooked.vocabulary, np.random.default_rng(0)
        rows: list[np.ndarray] = []
        for _ in range(100 * WINDOWS):
            ids = np.asarray(vocabulary.encode(texts[rng.integers(len(texts))]))
            if len(ids) >= LENGTH:
                first = rng.integers(len(ids) - LENGTH + 1)
                window = ids[first : first + LENGTH]
                rows += [window] if vocabulary.allowed[window].all() else []
            if len(rows) == WINDOWS:
                return np.array(rows, dtype=np.int64)
        raise Refused(f"The text of {self.name} has too few lines of {LENGTH} ordinary tokens.")

    def _texts(self) -> list[str]:
        import dreamy_lens as dl

        if self.corpus is None:
            return [" ".join(document.text.split()) for document in dl.corpus.docstrings()]
        lines = self.corpus.read_text(encoding="utf-8", errors="ignore").split("\n")
        return [" ".join(line.split()) for line in lines if len(line) > 20]


def default_features(hooked: Any) -> dict[str, list[str]]:
    """Choose features of a model that has no fixed list, by a fixed rule."""
    layers, width = hooked.source.cfg.n_layers, hooked.source.cfg.d_mlp
    tokens = np.random.default_rng(1).choice(np.flatnonzero(hooked.vocabulary.allowed), size=4, replace=False)

    def neuron(i: int) -> str:
        return f"L{i * (layers - 1) // 4}.N{(2 * i + 1) * width // 10}"

    middle = layers // 2
    logits = [f"logit({tokens[i]}) - logit({tokens[i + 1]})" for i in (0, 2)]
    return {
        "tune": [neuron(0), neuron(2), neuron(4), f"direction L{middle}.S0", logits[0]],
        "report": [neuron(1), neuron(3), f"direction L{max(middle - 1, 0)}.S1", logits[1], f"latent L{middle}.F3"],
    }


class SmallSAE:
    """Sparse autoencoder with random weights of a fixed seed, which reads the standardised residual stream.

    Attributes:
        hook_name: Hook point that is encoded.
    """

    def __init__(self, layer: int, width: int) -> None:
        import torch

        self.hook_name = f"blocks.{layer}.hook_resid_post"
        weights = np.random.default_rng((SAE_SEED, layer)).normal(size=(width, SAE_WIDTH)) / np.sqrt(width)
        self.weights = torch.from_numpy(weights.astype(np.float32))

    def encode(self, activation: Any) -> Any:
        """Encode activations `[..., width]` into latents `[..., 64]`."""
        return (standardise(activation) @ self.weights + SAE_BIAS).relu()


def standardise(h: Any) -> Any:
    """Subtract the mean of the units, and divide by their standard deviation."""
    h = h.float()
    h = h - h.mean(-1, keepdim=True)
    return h / h.pow(2).mean(-1, keepdim=True).sqrt().clamp_min(1e-12)


def direction(seed: int, width: int) -> np.ndarray:
    """Draw a direction of length 1."""
    drawn = np.random.default_rng(seed).normal(size=width)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


def feature(name: str, hooked: Any) -> Any:
    """Make a feature of dreamy_lens from its name."""
    import dreamy_lens as dl

    width = hooked.source.cfg.d_model
    if match := re.fullmatch(r"direction L(\d+)\.S(\d+)", name):
        layer, seed = map(int, match.groups())
        return dl.hook(f"blocks.{layer}.hook_resid_post")[-1].standardised() @ direction(seed, width)
    if match := re.fullmatch(r"latent L(\d+)\.F(\d+)", name):
        layer, latent = map(int, match.groups())
        sae = SmallSAE(layer, width)
        return dl.sae_latent(sae, latent, hook=sae.hook_name)
    return dl.parse(name)


def check_fires(name: str, value: np.ndarray) -> None:
    """Refuse a feature that never fires on natural windows.

    Args:
        name: Name of the feature.
        value: Its value on each window.

    Raises:
        Refused: A neuron or latent is never positive, or another feature has one value on all windows.
    """
    fires = value.max() > LEAST_VALUE if re.fullmatch(r"(latent )?L\d+\.[NF]\d+", name) else np.ptp(value) > 0
    if not fires:
        raise Refused(f"The feature {name} never fires on {len(value)} natural windows; choose another one.")


def plain_target(name: str, plain: Any) -> tuple[Any, Callable[[Any, Any], Any]]:
    """Find what computes a feature in a plain Hugging Face model, without dreamy_lens.

    Args:
        name: Name of the feature.
        plain: A `PlainModel`.

    Returns:
        The module to watch, or None for the logits; and the function of (input or output of the module, logits) that
        returns the value of each row. The input is given for a neuron, the output for a block.

    Raises:
        Refused: The feature is of a kind that only dreamy_lens can compute.
    """
    import torch

    if match := re.fullmatch(r"L(\d+)\.N(\d+)", name):
        layer, neuron = map(int, match.groups())
        return plain.mlp_output(layer), lambda read, _: read[:, -1, neuron]
    if match := re.fullmatch(r"direction L(\d+)\.S(\d+)", name):
        layer, seed = map(int, match.groups())
        vector = torch.from_numpy(direction(seed, plain.model.config.hidden_size))
        return block(plain.model, layer), lambda read, _: standardise(read[:, -1]) @ vector
    if match := re.fullmatch(r"latent L(\d+)\.F(\d+)", name):
        layer, latent = map(int, match.groups())
        sae = SmallSAE(layer, plain.model.config.hidden_size)
        return block(plain.model, layer), lambda read, _: sae.encode(read[:, -1])[:, latent]
    one = r'logit\((?:"([^"]+)"|(\d+))\)'
    if match := re.fullmatch(f"{one}(?: - {one})?", name):
        texts = [text for text in match.groups() if text is not None]
        ids = [int(text) if text.isdigit() else token_id(plain.tokenizer, text) for text in texts]
        return None, lambda _, logits: logits[:, -1, ids[0]] - (logits[:, -1, ids[1]] if len(ids) > 1 else 0)
    raise Refused(f"{name} is of a kind that the reference's side does not compute.")


def token_id(tokenizer: Any, text: str) -> int:
    """Find the id of the token with this text, as it stands inside a sentence."""
    matches = [i for t, i in tokenizer.get_vocab().items() if t.replace("Ġ", " ").replace("▁", " ") == text]
    if len(matches) != 1:
        raise Refused(f"The tokenizer has {len(matches)} tokens with the text {text!r}, and one is needed.")
    return matches[0]


def block(model: Any, layer: int) -> Any:
    """Find a block of a plain Hugging Face model."""
    for name in BLOCKS:
        try:
            return model.get_submodule(f"{name}.{layer}")
        except AttributeError:
            continue
    raise Refused(f"No blocks were found in {type(model).__name__}; extend BLOCKS.")
