"""The attention kernel for prefix trees: the numbers of torch's attention, and it compiles for present GPUs.

Triton comes with torch for CUDA only. Where it is installed, its interpreter runs the kernel on the processor.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dreamy_lens.models import tree_kernel

pytestmark = pytest.mark.skipif(not tree_kernel.is_available(), reason="Triton is not installed")

NUMBERS = """
import numpy as np, torch
from dreamy_lens.models import build_tree, tree_kernel

def plain(q, k, v, rows, tree, scale, cap, window):
    "Each node by itself, over the nodes of its own prefix."
    out = torch.zeros(q.shape[1], q.shape[0], v.shape[-1])
    for row in tree.host_index:
        for position, node in enumerate(row):
            if node < tree.known:
                continue
            path = row[: position + 1] if window is None else row[max(0, position + 1 - window) : position + 1]
            for head in range(q.shape[0]):
                shared = head * k.shape[0] // q.shape[0]
                scores = k[shared, path].float() @ q[head, node - tree.known].float() * scale
                scores = scores if cap is None else cap * torch.tanh(scores / cap)
                out[node - tree.known, head] = scores.softmax(0) @ v[shared, path].float()
    return out

random = np.random.default_rng(0)
rows = random.integers(0, 3, (5, 19))
torch.manual_seed(0)
for known in (0, 4):
    rows[:, :known] = 1
    tree = build_tree(rows, known=known)
    used = np.unique(tree.host_index[tree.host_index >= known]) - known
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        q = torch.randn(4, tree.nodes, 10).to(dtype)
        k, v = (torch.randn(2, known + tree.nodes, 10).to(dtype) for _ in range(2))
        for cap, window in ((None, None), (5.0, 4), (None, 17), (0.5, None)):
            ours = tree_kernel.attend(q, k, v, tree.index, tree.owners, 0.3, cap, window)
            usual = plain(q, k, v, rows, tree, 0.3, cap, window)
            torch.testing.assert_close(ours[used].float(), usual[used], atol=tolerance, rtol=tolerance)
print("equal")
"""

COMPILED = """
import inspect

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dreamy_lens.models.tree_kernel import compiled_kernel

kernel = compiled_kernel()
for kind in ("fp32", "bf16", "fp16"):
    for architecture in (80, 90):
        types = dict.fromkeys(kernel.arg_names, "i32")
        types |= dict.fromkeys(("q", "k", "v", "out"), "*" + kind) | dict.fromkeys(("index", "owners"), "*i64")
        types |= dict.fromkeys(("scale", "cap"), "fp32") | dict.fromkeys(("D", "BLOCK", "CAPPED"), "constexpr")
        values = {"D": 64, "BLOCK": 16, "CAPPED": kind == "fp32"}
        if "constexprs" in inspect.signature(ASTSource).parameters:
            constants = {(kernel.arg_names.index(name),): value for name, value in values.items()}
            source = ASTSource(fn=kernel, signature=types, constexprs=constants)
        else:  # Triton 3.2, which torch 2.6 brings
            source = ASTSource(fn=kernel, signature=types, constants=values)
        compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": 1})
        assert "cubin" in compiled.asm
print("compiled")
"""


@pytest.mark.parametrize(("script", "interpreted"), [(NUMBERS, "1"), (COMPILED, "0")], ids=["numbers", "compiled"])
def test_the_kernel(script, interpreted, tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": interpreted, "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() in ("equal", "compiled")
