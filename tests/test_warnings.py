"""Warnings of the package: each points at the line of the user who called it, whatever part of the package warns."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

import dreamy_lens as dl
from dreamy_lens import errors
from dreamy_lens._warnings import hear_warnings, ignored_warnings
from dreamy_lens.models import as_hooked
from dreamy_lens.models.editable_hooks import uneditable
from tests.features.test_sae_conditions import saved

PACKAGE = Path(dl.__file__).parent


def test_every_warning_of_the_package_goes_through_one_function():
    calls = [
        file
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn"
    ]
    assert calls == [PACKAGE / "errors.py"]


@pytest.mark.parametrize("pre_activation", [False, True])
def test_a_warning_points_at_the_line_that_called_the_package(gpt2, tmp_path, pre_activation):
    folder, _ = saved(tmp_path / f"sae-{pre_activation}", 32, seqpos_slice=[0, 2], twist=2, prepend_bos=True)
    feature = dl.sae_latent(folder, 3, pre_activation=pre_activation)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        dl.score(feature, [[5, 6, 7, 8]], gpt2.bridge, prepend_bos=True)
    assert len(said) == 2 and {warning.filename for warning in said} == {__file__}


def test_a_warning_inside_a_hook_points_past_the_library_that_calls_it():
    library: dict[str, Any] = {"__name__": "torch.somewhere"}
    exec(compile("def call(function): return function('seen')", "/lib/torch/somewhere.py", "exec"), library)
    with pytest.warns(UserWarning, match="seen") as said:
        library["call"](errors.warn)
    assert said[0].filename == __file__


def test_the_command_line_prints_warnings_without_lines_of_code(tmp_path):
    folder, _ = saved(tmp_path / "sae", 224, "blocks.2.hook_resid_post", twist=2, prepend_bos=True)
    words = ["-m", "dreamy_lens", "attribute", f'sae_latent("{folder}", 1, pre_activation=true)', "the dog", "-k", "2"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    (line,) = [line for line in done.stderr.splitlines() if "does not know" in line]
    assert line.startswith("dreamy-lens: The SAE folder ") and "Warning" not in done.stderr
    assert "sys.exit" not in done.stderr


def filters() -> list[Any]:
    """Return the filters of the user; those of the package do nothing."""
    ours = "dreamy_lens._warnings"
    return [one for one in warnings.filters if ours not in (type(one[1]).__module__, one[2].__module__)]


def test_a_search_in_the_background_does_not_touch_how_other_threads_warn(gpt2, monkeypatch):
    """`catch_warnings` in a thread would restore the filters of all threads, while the user records warnings."""
    threads: list[str] = []
    entered = warnings.catch_warnings.__enter__

    def enter(self: Any) -> Any:
        threads.append(threading.current_thread().name)
        return entered(self)

    before = filters()
    monkeypatch.setattr(warnings.catch_warnings, "__enter__", enter)
    for search in ("frontier", "epo"):
        run = dl.dream("L1.N3", gpt2.bridge, search=search, iterations=2, length=4, wait=False, progress=False)
        assert len(run.wait().frontier)
    model = as_hooked(gpt2.bridge)
    thread = threading.Thread(target=lambda: uneditable(model, "blocks.1.attn.hook_pattern"))
    thread.start()
    thread.join(60)
    assert not [name for name in threads if name != threading.main_thread().name]
    assert filters() == before


def test_warnings_are_ignored_in_one_thread_only():
    said = []

    def in_another_thread() -> None:
        with pytest.warns(UserWarning, match="of another thread"):  # raises here if nothing came
            warnings.warn("of another thread", UserWarning, stacklevel=1)
        said.append(True)

    with ignored_warnings():
        warnings.warn("of this thread", UserWarning, stacklevel=1)  # an error in these tests if it is not ignored
        thread = threading.Thread(target=in_another_thread)
        thread.start()
        thread.join(60)
    assert said
    with pytest.warns(UserWarning, match="afterwards"):
        warnings.warn("afterwards", UserWarning, stacklevel=1)


def test_filters_that_another_thread_saved_and_restores_ignore_nothing_later():
    outer = ignored_warnings()
    outer.__enter__()
    with warnings.catch_warnings():
        outer.__exit__(None, None, None)
        with pytest.warns(UserWarning, match="some text"):
            warnings.warn("some text", UserWarning, stacklevel=1)
    with pytest.warns(UserWarning, match="some text"):
        warnings.warn("some text", UserWarning, stacklevel=1)


OP = re.compile(r"(\w+): no kernel")


@pytest.mark.parametrize("action", ["ignore", "error", "always", "default", "once"])
def test_warnings_are_heard_whatever_the_user_does_with_them_and_however_often_they_came(action):
    def compute() -> int:
        warnings.warn("op: no kernel", UserWarning, stacklevel=1)
        return 3

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter(action, UserWarning)
        for _ in range(2):
            result, found = hear_warnings(compute, OP)
            assert result == 3 and [match[1] for match in found] == ["op"]
        assert not said
        if action == "default":
            compute()
            assert len(said) == 1  # and is given to the user once the package has nothing to ask


def test_other_warnings_are_given_as_usual_while_some_are_heard():
    with pytest.warns(UserWarning, match="something else"):
        assert hear_warnings(lambda: warnings.warn("something else", stacklevel=1), OP) == (None, [])


@pytest.mark.parametrize("action", ["ignore", "error"])
def test_warnings_are_listened_to_again_if_another_thread_has_changed_the_filters(action):
    """Here the function changes them itself, which is the same to the listener."""
    calls = []

    def compute() -> None:
        calls.append(1)
        if len(calls) == 1:
            warnings.filters.insert(0, (action, None, Warning, None, 0))  # type: ignore[attr-defined]
        if action == "ignore" or len(calls) > 1:
            warnings.warn("op: no kernel", UserWarning, stacklevel=1)

    with warnings.catch_warnings():
        _, found = hear_warnings(compute, OP)
    assert len(calls) == 2 and [match[1] for match in found] == ["op"]
