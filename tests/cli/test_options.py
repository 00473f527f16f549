"""Test options that commands share: every setting that `EPO` declares becomes an option."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import pytest

import dreamy_lens as dl
from dreamy_lens.cli.main import main, make_parser
from dreamy_lens.panels import settings as form
from dreamy_lens.search import EPO, OPTIMIZERS, EPOOptimizer, searches, setting, setting_fields


@dataclass(frozen=True)
class MoreSettings(dl.EPO):
    """A configuration with a setting of each kind that `EPO` does not have."""

    name: ClassVar[str] = "epo"

    temperature: float = setting(1.5, "temperature", "how much the choice of a candidate is left to chance")
    patience: int | None = setting(None, "patience", "iterations without progress", minimum=1, when_none="to go on")
    shuffled: bool = setting(True, "shuffled", "shuffle members before each iteration")


NEW = ["temperature", "patience", "shuffled"]


@pytest.fixture
def more_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dl, "EPO", MoreSettings)
    others = {kind: optimizer for kind, optimizer in OPTIMIZERS.items() if kind is not EPO}
    monkeypatch.setattr("dreamy_lens.search.optimizers.OPTIMIZERS", {MoreSettings: EPOOptimizer(), **others})


def settings_given(monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    """Return the settings that a command passes to `dream()` or `sweep()`."""

    class Called(Exception):
        pass

    def called(*features: Any, **keywords: Any) -> None:
        raise Called(keywords)

    monkeypatch.setattr(dl, words[0], called)
    with pytest.raises(Called) as caught:
        main(words)
    names = {"search"} | {field.name for kind in (dl.EPO, *searches().values()) for field in setting_fields(kind)}
    return {name: value for name, value in caught.value.args[0].items() if name in names}


# A setting is declared once.


def test_every_field_of_the_configuration_is_a_setting_with_a_label_and_a_help():
    assert sorted(field.name for field in setting_fields(dl.EPO)) == sorted(field.name for field in fields(dl.EPO))
    for field in setting_fields(dl.EPO):
        assert field.label and field.help and field.help[0].islower() and not field.help.endswith(".")
        assert f"        {field.name}: {field.help.split()[0].capitalize()}" in (dl.EPO.__doc__ or "")


def test_the_command_line_has_an_option_for_every_setting(monkeypatch: pytest.MonkeyPatch):
    words = ["--keep-parents", "--no-share-prefixes", "--no-bos"]
    wanted: dict[str, Any] = {"keep_parents": True, "share_prefixes": False, "prepend_bos": False}
    for field in setting_fields(dl.EPO):
        if field.type is not bool:
            value = min(7, field.maximum)  # `until` is a share
            wanted[field.name] = field.type(value)
            words += [f"--{field.name.replace('_', '-')}", f"{value}"]
    assert set(wanted) == {field.name for field in fields(dl.EPO)}
    assert settings_given(monkeypatch, "dream", "L2.N17", *words) == wanted
    assert settings_given(monkeypatch, "dream", "L2.N17") == {}
    at = words.index("--seed")
    sweep = words[:at] + words[at + 2 :]
    del wanted["seed"]
    assert settings_given(monkeypatch, "sweep", "L2.N17", "--out", "nowhere", *sweep) == wanted


@pytest.mark.parametrize("search", ["gcg", "frontier", "random"])
def test_every_search_has_options(search, monkeypatch):
    kind = searches()[search]
    words = ["--search", search]
    for field in setting_fields(kind):
        if field.type is not bool and field.name != "seed":
            words += [f"--{field.name.replace('_', '-')}", f"{min(9, field.maximum)}"]
    given = settings_given(monkeypatch, "sweep", "L2.N17", "--out", "nowhere", *words)
    assert given.pop("search") == kind()
    values = {f.name: f.type(min(9, f.maximum)) for f in setting_fields(kind) if f.type is not bool}
    assert given == {name: value for name, value in values.items() if name != "seed"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--search", "epo", "--samples", "9"], "--samples is for --search frontier, and not for epo"),
        (["--samples", "9", "--top-k", "9"], "--top-k is for --search epo or gcg, and not for frontier"),
        (["--search", "random", "--top-k", "9"], "--top-k is for --search epo or gcg, and not for random"),
        (["--search", "greedy"], "invalid choice: 'greedy' (choose from"),
    ],
)
@pytest.mark.parametrize("command", ["dream", "sweep"])
def test_an_option_of_another_search_is_wrong_usage(words, said, command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "L2.N17", *(["--out", "nowhere"] if command == "sweep" else []), *words])
    assert caught.value.code == 2 and said in capsys.readouterr().err


def test_a_setting_is_checked_before_the_model_is_loaded(capsys):
    assert main(["dream", "L2.N17", "--search", "frontier", "--samples", "2", "--model", "no/model"]) == 1
    assert capsys.readouterr().err == "dreamy-lens: --samples is 2; it must be at least 8.\n"


def test_a_new_setting_is_an_option_of_dream_and_sweep(more_settings, monkeypatch, capsys):
    words = ["--temperature", "0.5", "--patience", "3", "--no-shuffled"]
    wanted = {"temperature": 0.5, "patience": 3, "shuffled": False}
    assert settings_given(monkeypatch, "dream", "L2.N17", *words) == wanted
    assert settings_given(monkeypatch, "sweep", "L2.N17", "--out", "nowhere", *words) == wanted
    monkeypatch.setenv("COLUMNS", "200")
    for command in ("dream", "sweep"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        told = capsys.readouterr().out
        assert "--temperature X" in told and "is left to chance (default: 1.5)" in told
        assert "--patience N" in told and "iterations without progress (leave it out to go on)" in told
        assert "--shuffled" in told and "--no-shuffled" in told
    with pytest.raises(SystemExit):
        main(["dream", "--resume", "nowhere", *words])
    assert "leave out --temperature, --patience, --shuffled" in capsys.readouterr().err


def test_a_new_setting_is_an_input_of_the_form(more_settings):
    fields = [field for field in form.form_fields() if not field.searches or "epo" in field.searches]
    shown = {field.name: field.to_dict() for field in fields}
    assert [(shown[name]["kind"], shown[name]["default"]) for name in NEW] == [
        ("number", "1.5"), ("number", ""), ("check", True),
    ]  # fmt: skip
    assert shown["patience"]["help"] == "Iterations without progress; leave it empty to go on."
    typed = {"search": "epo", "temperature": "0.5", "patience": "3", "shuffled": False}
    given = {name: value for name, value in form.arguments(typed).items() if name != "search"}
    assert given == {"temperature": 0.5, "patience": 3, "shuffled": False, "seed": 0}
    defaults = {name: field["default"] for name, field in shown.items()} | {"search": "epo"}
    assert form.arguments(defaults) == form.arguments({"search": "epo"})
    with pytest.raises(dl.errors.SettingsError, match="patience is 0; it must be a whole number, at least 1, or None"):
        form.arguments({"search": "epo", "patience": "0"})


def test_a_setting_that_may_be_none_is_a_choice_of_the_form():
    shown = {field.name: field.to_dict() for field in form.form_fields()}
    assert shown["prepend_bos"]["kind"] == "choice" and shown["prepend_bos"]["default"] == ""
    assert shown["prepend_bos"]["options"] == [["", "automatic"], ["yes", "yes"], ["no", "no"]]
    assert form.arguments({"prepend_bos": "no", "share_prefixes": "yes"}) == {
        "prepend_bos": False, "share_prefixes": True, "seed": 0,
    }  # fmt: skip
    with pytest.raises(dl.errors.SettingsError, match="prepend_bos is 'perhaps'; use True or False, or None"):
        form.arguments({"prepend_bos": "perhaps"})


# The command line as a program.


def test_help_is_ascii_so_that_every_terminal_can_print_it():
    parser = make_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        assert command.format_help().isascii(), name


def test_python_m_dreamy_lens_is_the_command():
    ran = subprocess.run([sys.executable, "-m", "dreamy_lens", "--version"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, f"dreamy-lens {dl.__version__}\n"), ran.stderr
    ran = subprocess.run([sys.executable, "-m", "dreamy_lens", "show", "./nowhere"], capture_output=True, text=True)
    assert ran.returncode == 1 and ran.stderr.startswith("dreamy-lens: There is no folder")
