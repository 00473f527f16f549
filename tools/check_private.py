"""Fail where a module reads an attribute that another module of the package keeps to itself (`x._name`).

    python tools/check_private.py [FOLDER ...]

A name with a leading underscore belongs to the module that defines it. An access counts as foreign when the name is
neither defined in the same file nor one of `THIRD_PARTY`, the private attributes of other libraries that there is no
public way to reach; each of those says which library it is of.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

THIRD_PARTY = {
    "_modules": "torch.nn.Module",
    "_parameters": "torch.nn.Module",
    "_buffers": "torch.nn.Module",
    "_forward_hooks": "torch.nn.Module",
    "_forward_pre_hooks": "torch.nn.Module",
    "_backward_hooks": "torch.nn.Module",
    "_backward_pre_hooks": "torch.nn.Module",
    "_version": "torch.Tensor",
    "_linear_pointwise": "torch.ops.mkldnn",
    "_attn_implementation": "a transformers configuration",
    "_reconstruct_attention": "a transformer_lens attention bridge",
    "_apply_output_projection": "a transformer_lens attention bridge",
    "_captured_pre_ln_residual": "a transformer_lens block bridge",
    "_global_server": "kaleido",
    "_strip_protocol": "an fsspec file system",
    "_fingerprint": "a datasets.Dataset",
    "_repr_mimebundle_": "an anywidget.AnyWidget, on which IPython calls it",
    "_exit": "os",
    "_asdict": "a named tuple",
    "_fields": "a named tuple",
    "_make": "a named tuple",
    "_replace": "a named tuple",
}


def defined_names(tree: ast.Module) -> set[str]:
    """Names that a file defines: functions, classes, arguments, variables and attributes that it assigns."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                names.add(node.attr)
    return names


def foreign_accesses(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each access to a private name that the source does not define itself."""
    tree = ast.parse(source)
    own = defined_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            through_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            through_super = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "super"
            if not (through_self or through_super or node.attr in own or node.attr in THIRD_PARTY):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dreamy_lens"):
            for name in node.names:
                if _is_private(name.name) and node.module != "dreamy_lens":
                    yield node.lineno, f"from {node.module} import {name.name}"


def _is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def main(folders: list[str]) -> int:
    """Print every foreign access below the folders, and return 1 if there is one."""
    failures = 0
    for folder in folders or ["dreamy_lens"]:
        for file in sorted(Path(folder).rglob("*.py")):
            for line, text in foreign_accesses(file.read_text(encoding="utf-8")):
                print(f"{file}:{line}: {text} is private to another module")
                failures += 1
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
