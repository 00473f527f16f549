"""The examples of docs/autoencoders.md, run on small files that stand at the places that they name."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file

from dreamy_lens.features import load_sae
from tests.features.test_sae import modern, save, tensors
from tests.features.test_sae_formats import renamed
from tests.features.test_sae_released import RELEASED
from tests.features.test_sae_sources import SCOPE, Cache, cache, registry

__all__ = ["cache", "registry"]

PAGE = Path(__file__).parents[2] / "docs" / "autoencoders.md"
SCOPE_FOLDER = RELEASED / "gemma_scope/gemma-scope-2b-pt-res" / SCOPE

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="needs the whole source tree")


def test_every_example_of_the_page_runs(cache: Cache, registry: Path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    save(Path("runs/my-sae"), modern("standard"), tensors("standard"))
    save_file(renamed(tensors("topk")), "mine.safetensors")
    shutil.copytree(SCOPE_FOLDER, Path("gemma-scope-2b-pt-res") / SCOPE)
    shutil.copytree(RELEASED / "sparsify/topk", "sae-pythia-70m")
    shutil.copytree(RELEASED / "dictionary_learning/AutoEncoderTopK", "trainer_0")
    shutil.copytree(RELEASED / "circuit_tracer/transcoders", "transcoders")
    cache.add("google/gemma-scope-2b-pt-res", SCOPE_FOLDER, SCOPE)
    cache.add("jbloom/GPT2-Small", RELEASED / "saelens/standard_none", "blocks.8")
    entry = "  - id: blocks.8.hook_resid_pre\n    path: blocks.8\n"
    file = registry / "pretrained_saes.yaml"
    file.write_text(file.read_text().replace("  - id: blocks.1.hook_resid_post\n", f"{entry}  - id: other\n", 1))
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 5
    for block in blocks:
        exec(block, names)
    assert "standard, 16 latents" in capsys.readouterr().out


def test_the_page_names_every_format_and_class():
    from dreamy_lens.features.sae.formats import circuit_tracer, dictionary_learning, folders

    page = PAGE.read_text(encoding="utf-8")
    names = (*folders.WEIGHTS, *folders.CONFIGS, circuit_tracer.CONFIG, *dictionary_learning.CLASSES)
    assert [name for name in names if f"`{name}`" not in page and name not in page] == []
    keys = (Path(PAGE.parent) / "conditions.md").read_text(encoding="utf-8")
    from dreamy_lens.features.sae.formats import gemma_scope, sparsify

    tables = (sparsify.USED, sparsify.IRRELEVANT, sparsify.TRAINING_USED, dictionary_learning.USED)
    tables += (gemma_scope.USED, gemma_scope.IRRELEVANT, circuit_tracer.USED, circuit_tracer.IRRELEVANT)
    assert [key for table in tables for key in sorted(table) if f"`{key}`" not in keys] == []
    assert load_sae(SCOPE_FOLDER).hook_name == "blocks.20.hook_resid_post"
