"""The faster routines: the same numbers, only where they may be used, and modules as they were afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from dreamy_lens.models import Kernels, kernels, matmul_t


class Small(nn.Module):
    """Everything that is replaced, and something that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.bare = nn.Linear(7, 12), nn.Linear(12, 9, bias=False)
        self.conv, self.gelu, self.norm = Conv1D(5, 9), NewGELUActivation(), nn.LayerNorm(5)
        nn.init.normal_(self.conv.weight)
        nn.init.normal_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.gelu(self.bare(self.into(x)))))


@pytest.fixture(params=["oneDNN", "stand-in", "none"])
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]] | None:
    """Shapes of the weights that went the faster way, by oneDNN's routine or by one in its place; None without any."""
    routine = kernels._onednn_linear()
    if request.param == "none":
        monkeypatch.setattr(kernels, "_onednn_linear", lambda: None)
        return None
    if request.param == "stand-in":
        routine = F.linear
    elif routine is None:
        pytest.skip("oneDNN's routine is not the better one on this processor, or is not there")
    seen: list[tuple[int, ...]] = []

    def noted(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        seen.append(tuple(weight.shape))
        return routine(x, weight, bias)

    monkeypatch.setattr(kernels, "_onednn_linear", lambda: noted)
    return seen


def went(calls: list[tuple[int, ...]] | None, *shapes: tuple[int, ...]) -> None:
    """The faster way was gone with these weights and no others, if there is one."""
    assert calls is None or calls == list(shapes)


def same(found: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def frozen() -> Small:
    return Small().requires_grad_(False).eval()


def own(model: nn.Module) -> list[str]:
    """Modules with a `forward` of their own."""
    return [name for name, module in model.named_modules() if "forward" in module.__dict__]


# A model's numbers.


@pytest.mark.parametrize("shape", [(7,), (1, 7), (3, 7), (2, 5, 7), (0, 7)])
def test_a_model_gives_the_same_numbers(calls, shape):
    model, x = frozen(), torch.randn(shape)
    expected = model(x)
    with Kernels(model).used():
        same(model(x), expected)
    went(calls, *([(12, 7), (9, 12), (5, 9)] if x.numel() else []))


def test_its_gradient_with_respect_to_the_input_is_the_same(calls):
    model, direction = frozen(), torch.randn(4, 6, 5)
    x, y = (torch.randn(4, 6, 7, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    (model(x) * direction).sum().backward()
    with Kernels(model).used():
        (model(y) * direction).sum().backward()
    assert x.grad is not None and y.grad is not None
    same(y.grad, x.grad)
    went(calls, (12, 7), (9, 12), (5, 9), (9, 5), (12, 9), (7, 12))


def test_without_grad_mode_weights_that_would_take_a_gradient_go_the_faster_way(calls):
    model, x = Small(), torch.randn(3, 7)
    with torch.no_grad():
        expected = model(x)
        with Kernels(model).used():
            same(model(x), expected)
    went(calls, (12, 7), (9, 12), (5, 9))


def test_weights_that_take_a_gradient_get_theirs(calls):
    model = Small()
    other, x = copy.deepcopy(model), torch.randn(3, 7)
    other.load_state_dict(model.state_dict())
    model(x).square().sum().backward()
    with Kernels(other).used():
        other(x).square().sum().backward()
    for (name, ours), (_, plain) in zip(other.named_parameters(), model.named_parameters(), strict=True):
        assert ours.grad is not None and plain.grad is not None, name
        same(ours.grad, plain.grad, 1e-4)
    went(calls)


def test_a_bias_alone_that_takes_a_gradient_gets_it(calls):
    linear, x = nn.Linear(7, 4), torch.randn(3, 7)
    linear.weight.requires_grad_(False)
    with Kernels(linear).used():
        linear(x).sum().backward()
    assert linear.bias.grad is not None
    same(linear.bias.grad, torch.full((4,), 3.0))
    went(calls)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_keep_their_own_arithmetic(calls, dtype):
    model = frozen().to(dtype)
    x = torch.randn(3, 7, dtype=dtype)
    expected = model(x)
    with Kernels(model).used():
        found = model(x)
    assert found.dtype == dtype and torch.equal(found, expected)
    went(calls)


def test_weights_that_are_changed_are_seen_in_the_next_pass(calls):
    model, x = frozen(), torch.randn(3, 7)
    faster = Kernels(model)
    with faster.used():
        model(x)
    model.into.weight = nn.Parameter(torch.randn(12, 7), requires_grad=False)
    model.conv.weight.mul_(3)
    expected = model(x)
    with faster.used():
        same(model(x), expected)


# Modules.


def test_modules_have_no_forward_of_their_own_afterwards():
    model = frozen()
    faster = Kernels(model)
    with faster.used():
        assert "gelu" in own(model) and "norm" not in own(model)
    assert own(model) == []
    with pytest.raises(ValueError, match="in a pass"), faster.used():
        raise ValueError("in a pass")
    assert own(model) == []


def test_a_pass_inside_a_pass_leaves_the_outer_one_as_it_is():
    model = frozen()
    faster = Kernels(model)
    with faster.used():
        before = own(model)
        with faster.used():
            assert own(model) == before
        assert own(model) == before
    assert own(model) == []


def test_a_forward_that_somebody_replaced_is_left_alone(calls):
    model, x = frozen(), torch.randn(3, 7)
    replaced: dict[str, Callable[..., Any]] = {
        "into": lambda x: x.new_ones(*x.shape[:-1], 12),
        "gelu": lambda x: x * 2,
    }
    for name, function in replaced.items():
        getattr(model, name).forward = function
    expected = model(x)
    with Kernels(model).used():
        same(model(x), expected)
        for name, function in replaced.items():
            assert getattr(model, name).__dict__["forward"] is function
    for name, function in replaced.items():
        assert getattr(model, name).__dict__["forward"] is function
    assert sorted(own(model)) == ["gelu", "into"]
    went(calls, (9, 12), (5, 9))


def test_a_class_of_one_s_own_is_not_taken_for_a_linear_layer(calls):
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model, x = nn.Sequential(Doubled(7, 4)).requires_grad_(False), torch.randn(3, 7)
    expected = model(x)
    with Kernels(model).used():
        assert own(model) == [] and torch.equal(model(x), expected)
    went(calls)


def test_hooks_on_modules_still_run(calls):
    model, x, seen = frozen(), torch.randn(3, 7), []
    model.into.register_forward_hook(lambda module, inputs, out: seen.append(out))
    with Kernels(model).used():
        model(x)
    same(seen[0], F.linear(x, model.into.weight, model.into.bias))


def test_without_the_routine_only_the_activation_function_is_replaced(monkeypatch):
    monkeypatch.setattr(kernels, "_onednn_linear", lambda: None)
    model = frozen()
    with Kernels(model).used():
        assert own(model) == ["gelu"]


# Products.


def test_products_with_a_transposed_matrix_are_right(calls):
    x, weight = torch.randn(2, 3, 7), torch.randn(5, 7)
    same(matmul_t(x, weight), x @ weight.T)
    same(matmul_t(x.transpose(0, 1), weight), x.transpose(0, 1) @ weight.T)
    went(calls, (5, 7), (5, 7))


def test_a_matrix_that_lies_transposed_goes_the_faster_way_too(calls):
    x, weight = torch.randn(3, 7), torch.randn(7, 5).t()
    same(matmul_t(x, weight), x @ weight.T)
    went(calls, (5, 7))


@pytest.mark.parametrize(
    "part", ["a slice of a transposed matrix", "every second row", "a slice of columns", "one row"]
)
def test_a_matrix_with_gaps_goes_the_ordinary_way(calls, part):
    weight = {
        "a slice of a transposed matrix": torch.randn(7, 12).t()[2:7],
        "every second row": torch.randn(10, 7)[::2],
        "a slice of columns": torch.randn(5, 12)[:, 3:10],
        "one row": torch.randn(1, 1).expand(5, 7),
    }[part]
    assert weight.shape == (5, 7) and not weight.is_contiguous() and not weight.t().is_contiguous()
    x = torch.randn(3, 7)
    same(matmul_t(x, weight), x @ weight.T)
    went(calls)


def test_inputs_of_another_precision_are_refused_as_ever(calls):
    with pytest.raises(RuntimeError):
        matmul_t(torch.randn(3, 7, dtype=torch.float64), torch.randn(5, 7))
    went(calls)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_gradient_of_a_product_is_the_ordinary_one(calls, transposed, bias):
    weight = torch.randn(7, 5).t() if transposed else torch.randn(5, 7)
    b = torch.randn(5) if bias else None
    base = torch.randn(4, 3, 7)
    slopes = []
    for function in (kernels._linear, F.linear):
        x = base.clone().requires_grad_()
        out = function(x.transpose(0, 1), weight, b)
        # The slope of a sum is spread without being written out; that of a slice has gaps.
        of_sum = torch.autograd.grad(out.sum(), x, retain_graph=True)[0]
        of_some = torch.autograd.grad(out[..., ::2].square().sum(), x)[0]
        slopes.append((out.detach(), of_sum, of_some))
    for ours, plain in zip(*slopes, strict=True):
        same(ours, plain, 1e-4)
    went(calls, (5, 7), (7, 5), (7, 5))


def test_the_activation_function_is_the_one_it_replaces():
    model, x = NewGELUActivation(), torch.linspace(-12, 12, 2001).requires_grad_()
    expected = model(x)
    slope = torch.autograd.grad(expected.sum(), x)[0]
    with Kernels(model).used():
        found = model(x)
    same(found, expected, 1e-5)
    same(torch.autograd.grad(found.sum(), x)[0], slope, 1e-5)
