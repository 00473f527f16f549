"""Write the pages of docs/reference/ that list every public name of the package, for autodoc to describe.

    python docs/make_reference.py            write the pages
    python docs/make_reference.py --check    exit with 1 if a page is out of date

The names are those that each package exports. The topics of the top level are in `TOPICS`; a public name without a
topic is an error, so that none is missing in the reference.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import dreamy_lens

FOLDER = Path(__file__).parent / "reference"

TOPICS = {
    "Models": ["load_model", "ensemble"],
    "Features": [
        "neuron", "neurons", "expert_neuron", "router", "hook", "logit", "logit_difference", "log_prob", "sae_latent",
        "load_sae", "direction", "custom", "parse",
    ],
    "Dreaming": ["dream", "sweep", "load_run", "load", "FrontierSearch", "EPO", "GCG", "RandomSearch"],
    "One prompt": ["score", "attribution", "attribute", "upstream", "generate"],
    "Interventions": ["steer", "ablate", "patch", "logit_effect"],
    "Dreams against data": ["max_activating", "compare", "baselines", "mechanisms", "explain", "card"],
    "Panels": ["explore", "browse"],
}  # fmt: skip
"""Names of the top level by topic. Its modules have pages of their own."""

MODULES = {
    "constraints": "dreamy_lens.search.constraints",
    "corpus": "dreamy_lens.corpus",
    "features": "dreamy_lens.features",
    "figures": "dreamy_lens.figures",
    "panels": "dreamy_lens.panels",
    "results": "dreamy_lens.results",
    "runs": "dreamy_lens.runs",
    "scan": "dreamy_lens.scan",
    "comparison": "dreamy_lens.comparison",
    "sweeps": "dreamy_lens.sweeps",
    "cluster": "dreamy_lens.cluster",
    "analysis": "dreamy_lens.analysis",
    "studies": "dreamy_lens.studies",
    "search": "dreamy_lens.search",
    "scoring": "dreamy_lens.scoring",
    "models": "dreamy_lens.models",
    "errors": "dreamy_lens.errors",
}
"""Modules with a page, by the name of the page."""

SHORT = {"constraints": "dreamy_lens.constraints"}
"""Names of modules as users write them, where they differ."""


def names_of(module: Any) -> list[str]:
    """Return the public names of a module that are not modules, in order."""
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    return [name for name in names if not inspect.ismodule(getattr(module, name))]


def entry(module: str, name: str, value: Any) -> str:
    """Return the directive that describes a name."""
    full = f"{module}.{name}"
    if inspect.isclass(value):
        return f".. autoclass:: {full}\n"
    if inspect.isroutine(value):
        return f".. autofunction:: {full}\n"
    if callable(value) and type(value).__module__.startswith("dreamy_lens"):  # `dl.logit`, which has methods too
        methods = [n for n, method in vars(type(value)).items() if callable(method) and not n.startswith("_")]
        return "\n".join(f".. autofunction:: {each}\n" for each in (full, *(f"{full}.{n}" for n in methods)))
    return f".. autodata:: {home_of(module, name)}.{name}\n   :no-value:\n"


def home_of(module: str, name: str) -> str:
    """Return the module that defines a constant, where its description stands."""
    folder = Path(importlib.import_module(module).__file__ or "").parent
    stub = next(path for path in (folder / "__init__.pyi", folder / "__init__.py") if path.is_file())
    for node in ast.parse(stub.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and name in (alias.name for alias in node.names):
            return f"{module}.{node.module}" if node.level else str(node.module)
    return module


def heading(text: str, sign: str) -> str:
    """Return a heading."""
    return f"{text}\n{sign * len(text)}\n"


def listing(module: str, names: list[str]) -> str:
    """Return a table of names with the first sentence of each, and their descriptions."""
    home = importlib.import_module(MODULES.get(module.rpartition(".")[2], module))
    described = [name for name in names if callable(getattr(home, name))]
    table = ".. autosummary::\n   :nosignatures:\n\n" + "".join(f"   ~{module}.{name}\n" for name in described)
    return "\n".join([table, *(entry(module, name, getattr(home, name)) for name in names)])


def top_page() -> str:
    """Return the page of the top level."""
    covered = {name for names in TOPICS.values() for name in names}
    if covered != (public := set(names_of(dreamy_lens))):
        raise SystemExit(f"TOPICS of docs/make_reference.py differs from dreamy_lens: {sorted(covered ^ public)}")
    parts = [heading("dreamy_lens", "="), "These names are used as ``dl.NAME`` after ``import dreamy_lens as dl``.\n"]
    for topic, names in TOPICS.items():
        parts += [heading(topic, "-"), listing("dreamy_lens", names)]
    return "\n".join(parts)


def module_page(name: str) -> str:
    """Return the page of a module."""
    module = importlib.import_module(MODULES[name])
    shown = SHORT.get(name, MODULES[name])
    names = names_of(module)
    top = names_of(dreamy_lens) if name != "constraints" else []
    elsewhere = [n for n in names if n in top and getattr(module, n) is getattr(dreamy_lens, n)]
    parts = [heading(shown, "="), inspect.cleandoc(module.__doc__ or "").split("\n\n>>>")[0] + "\n"]
    if elsewhere:
        listed = ", ".join(f":obj:`~dreamy_lens.{each}`" for each in elsewhere)
        parts.append(f"Also here, and described with the top level: {listed}.\n")
    return "\n".join([*parts, listing(shown, [each for each in names if each not in elsewhere])])


def pages() -> dict[str, str]:
    """Return the text of every page by its name."""
    first = ".. This page is made by docs/make_reference.py from what the package exports.\n\n"
    listed = "".join(f"   {name}\n" for name in ("top", *MODULES, "command_line"))
    words = "Every public name, with its arguments, errors and an example that the tests run.\n"
    index = f"{heading('Reference', '=')}\n{words}\n.. toctree::\n   :maxdepth: 1\n\n{listed}"
    return {"index": first + index, "top": first + top_page()} | {name: first + module_page(name) for name in MODULES}


def main(argv: list[str] | None = None) -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the pages are up to date")
    check = parser.parse_args(argv).check
    stale = []
    for name, text in pages().items():
        path = FOLDER / f"{name}.rst"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
            if not check:
                path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"python docs/make_reference.py: out of date are {', '.join(stale)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
