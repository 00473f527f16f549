"""Arithmetic of the latents of a dictionary, from its tensors under the names of SAELens.

With x the activation, after the centring and scaling that the configuration asks for:

    pre = x @ W_enc + b_enc                                   pre-activation   [..., d_sae]
    standard:  relu(pre)
    topk:      relu(pre) for the k largest of a row, else 0
    groupmax:  relu(pre) for the largest of each of k groups of neighbours, else 0
    jumprelu:  relu(pre) where pre > threshold, else 0
    gated:     relu(pre) where x @ W_enc + b_gate > 0, else 0, with pre = x @ W_enc * exp(r_mag) + b_mag

An inactive latent has zero gradient, so a search that starts far from the latent climbs its pre-activation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from einops import rearrange

from dreamy_lens.features.sae.formats.encoder import Encoder

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float


@dataclass(frozen=True)
class LatentArithmetic:
    """Arithmetic of latents; `i` is the index of one latent, or None for all of them.

    Attributes:
        encoder: Settings of the computation.
        architecture: One of `formats.encoder.ARCHITECTURES`.
        weight: Function from a tensor's name, a latent or None, and a tensor x to the tensor, or the part of it that
            the latent needs, in the precision and on the device of x.
    """

    encoder: Encoder
    architecture: str
    weight: Callable[[str, int | None, torch.Tensor], torch.Tensor]

    def prepare(self, x: Float[torch.Tensor, "*row"]) -> Float[torch.Tensor, "*row d_in"]:
        """Return an activation as the encoder's matrix takes it: scaled, normalised, and without the decoder's bias.

        Args:
            x: Activation `[..., d_in]`, or `[..., heads, d_head]` if the encoder joins heads.
        """
        if self.encoder.joins_heads:
            x = rearrange(x, "... head d_head -> ... (head d_head)")
        if self.encoder.input_scale != 1.0:
            x = x * self.encoder.input_scale
        if self.encoder.normalisation == "constant_norm_rescale":
            x = x * (x.shape[-1] ** 0.5 / x.norm(dim=-1, keepdim=True))
        elif self.encoder.normalisation == "layer_norm":
            # Layer norm as the format defines it: divide by the sample standard deviation (n - 1) plus epsilon.
            x = x - x.mean(-1, keepdim=True)
            x = x / (x.std(-1, keepdim=True) + 1e-5)
        if self.encoder.whitened:
            x = (x - self.weight("whitening_mean", None, x)) @ self.weight("whitening_matrix", None, x)
        return x - self.weight("b_dec", None, x) if self.encoder.subtracts_b_dec else x

    def pre_activation(
        self, x: Float[torch.Tensor, "*row d_in"], i: int | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return pre-activations, and for a gated autoencoder the gate values: a gate is open where positive.

        Args:
            x: Prepared activation.
            i: Index of a latent, or None.
        """
        linear = x @ self.weight("W_enc", i, x)
        if self.architecture == "gated":
            magnitude = linear * self.weight("r_mag", i, x).exp() + self.weight("b_mag", i, x)
            return magnitude, linear + self.weight("b_gate", i, x)
        pre = linear + self.weight("b_enc", i, x)
        if self.encoder.scales_by_decoder_norm:
            pre = pre * self.weight("W_dec", i, x).norm(dim=-1)
        return pre, None

    def latent(self, x: Float[torch.Tensor, "*row d_in"], i: int | None) -> torch.Tensor:
        """Return latents, from a prepared activation."""
        import torch

        pre, gate = self.pre_activation(x, i)
        post = pre.relu().tanh() if self.encoder.activation == "tanh-relu" else pre.relu()
        if gate is not None:
            active = gate > 0
        elif self.architecture == "jumprelu":
            active = pre > self.weight("threshold", i, x)
        elif self.architecture in ("topk", "groupmax"):
            active = self._among_the_strongest(x, pre, i)
        else:
            return post
        return torch.where(active, post, torch.zeros_like(post))

    def _among_the_strongest(self, x: torch.Tensor, pre: torch.Tensor, i: int | None) -> torch.Tensor:
        import torch

        assert self.encoder.k is not None
        with torch.no_grad():
            everything = pre if i is None else self.pre_activation(x, None)[0]
            if self.architecture == "groupmax":
                size = everything.shape[-1] // self.encoder.k
                strongest = everything.unflatten(-1, (self.encoder.k, size)).argmax(-1)
                strongest = strongest + size * torch.arange(self.encoder.k, device=x.device)
            else:
                strongest = everything.topk(self.encoder.k, dim=-1).indices
            if i is not None:
                return (strongest == i).any(-1)
            return torch.zeros_like(pre, dtype=torch.bool).scatter(-1, strongest, True)


def floats(x: torch.Tensor) -> torch.Tensor:
    """Return an activation in float32, or as it is in float64."""
    import torch

    return x if x.dtype == torch.float64 else x.float()


def centred(x: Float[torch.Tensor, "*row d"]) -> Float[torch.Tensor, "*row d"]:
    """Return an activation without the mean of its units."""
    return x - x.mean(-1, keepdim=True)
