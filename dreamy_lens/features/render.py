"""Write a feature as text: the inverse of :func:`dreamy_lens.features.parser.parse`. The text is always one line."""

from __future__ import annotations

from typing import Any

from dreamy_lens.features import expressions as ex
from dreamy_lens.features.lexer import is_plain, quote


def render(feature: ex.Feature, short: bool = False) -> str:
    """The text form; `short` abbreviates inline directions and paths, for people only."""
    return _Writer(short).write(feature)


class _Writer:
    def __init__(self, short: bool) -> None:
        self.short = short

    def write(self, f: ex.Feature) -> str:
        match f:
            case ex.Hook():
                name = f.name if is_plain(f.name) else f"hook({quote(f.name)})"
                return name if f.index is None else f"{name}[{', '.join(map(_element, f.index))}]"
            case ex.Logit():
                function = "logit.runner_up" if f.kind == "runner_up" else f.kind
                return f"{function}({_token(f.token)}{_position(f.position)})"
            case ex.Latent():
                pre = ", pre_activation=true" if f.pre_activation else ""
                at = f", hook={quote(f.hook)}" if f.hook else ""
                return f"sae_latent({self.source(f.sae)}, {f.latent}{_position(f.position)}{pre}{at})"
            case ex.MeanCrossEntropy():
                return f"mean_cross_entropy({'' if f.model is None else self.source(f.model)})"
            case ex.Custom():
                return f"custom({quote(f.name)})"
            case ex.Constant():
                return _float(f.value)
            case ex.Scaled():
                return f"-{self.inner(f.of)}" if f.factor == -1 else f"{_float(f.factor)} * {self.inner(f.of)}"
            case ex.Projected():
                return f"{self.inner(f.of)} @ {self.direction(f.direction)}"
            case ex.Cosine():
                return f"{self.inner(f.of)}.cosine({self.direction(f.direction)})"
            case ex.Standardised():
                return f"{self.inner(f.of)}.standardised()"
            case ex.Norm():
                return f"{self.inner(f.of)}.norm()"
            case ex.Reduced():
                return f"{self.inner(f.of)}.{f.how}()"
            case ex.Clipped():
                limits = [f"{n}={_float(x)}" for n, x in (("min", f.low), ("max", f.high)) if x is not None]
                return f"{self.inner(f.of)}.clip({', '.join(limits)})"
            case ex.Product():
                return " * ".join(self.inner(x) for x in f.factors)
            case ex.Sum():
                return self.sum(f)
        raise TypeError(f"no text form for {type(f).__name__}")

    def sum(self, f: ex.Sum) -> str:
        out = self.write(f.terms[0])
        for term in f.terms[1:]:
            text = self.write(term)
            out += f" - {text[1:]}" if text.startswith("-") else f" + {text}"
        return out

    def inner(self, f: ex.Feature) -> str:
        """As an operand: bracketed unless it binds as tightly."""
        loose = isinstance(f, (ex.Sum, ex.Scaled, ex.Product, ex.Projected, ex.Constant))
        return f"({self.write(f)})" if loose else self.write(f)

    def direction(self, direction: Any) -> str:
        if self.short:
            return direction.short if direction.path is None else quote(direction.short)
        return quote(direction.text)

    def source(self, source: Any) -> str:
        """A folder or a model's name; an object, which has no text form, as <its name>."""
        if isinstance(source, str):
            return quote(source.rstrip("/").rpartition("/")[2] if self.short else source)
        name = getattr(getattr(source, "cfg", None), "model_name", None) or type(source).__name__
        return f"<{quote(str(name))[1:-1]}>"


def _element(e: Any) -> str:
    if e is Ellipsis:
        return "..."
    if isinstance(e, ex.Span):
        start, stop = ("" if x is None else str(x) for x in (e.start, e.stop))
        return f"{start}:{stop}" + ("" if e.step is None else f":{e.step}")
    return str(e)


def _position(position: Any) -> str:
    return "" if position == -1 else f", position={_element(position)}"


def _token(token: str | int) -> str:
    return quote(token) if isinstance(token, str) else str(token)


def _float(x: float) -> str:
    return str(int(x)) if x == int(x) and abs(x) < 1e15 else repr(x)
