"""Input that is absurdly long or large is refused at once, before anything is allocated, and the errors are short."""

from __future__ import annotations

import argparse
import tracemalloc

import pytest

import dreamy_lens as dl
from dreamy_lens.cli.corpus import count_option
from dreamy_lens.errors import (
    ConstraintError,
    CorpusError,
    DreamyLensError,
    ModelError,
    PromptError,
    SettingsError,
    TokenError,
    UnknownHookError,
    close_names,
    quoted,
    shorten,
    unknown_setting,
)
from dreamy_lens.models import nearest
from dreamy_lens.scan import ScanConfig

LONG = "x" * 10**6
SMALL = {"iterations": 1, "population": 2, "children": 4, "length": 4}
HUGE = 10**5000


def refused(error: type[DreamyLensError], use) -> str:
    """Return the message of the error, after a check that neither it nor the memory of the call is large."""
    tracemalloc.start()
    try:
        with pytest.raises(error) as caught:
            use()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20 and len(str(caught.value)) < 1000
    return str(caught.value)


@pytest.mark.parametrize("name", ["length", "population", "children"])
@pytest.mark.parametrize("value", [10**9, HUGE], ids=["billion", "huge"])
def test_a_search_of_absurd_size_is_refused(gpt2, name, value):
    message = refused(SettingsError, lambda: dl.dream("L1.N3", gpt2.bridge, **{**SMALL, name: value}))
    assert message.startswith(f"{name} is ") and "it must be at most" in message


def test_sizes_count_together(gpt2):
    large = {**SMALL, "population": 90_000, "children": 900_000, "length": 60}
    assert "token ids and the limit is" in refused(SettingsError, lambda: dl.dream("L1.N3", gpt2.bridge, **large))
    for seeds in (range(10**9), iter(range(10**9))):
        assert "more than 100,000 seeds" in refused(
            SettingsError, lambda seeds=seeds: dl.dream("L1.N3", gpt2.bridge, seeds=seeds, **SMALL)
        )
    long = {**SMALL, "length": 10**6}
    assert "context is 64; use at most 63" in refused(PromptError, lambda: dl.dream("L1.N3", gpt2.bridge, **long))


@pytest.mark.parametrize(
    ("name", "value"),
    [("length", 10**9), ("context", 10**12), ("stride", 10**30), ("tokens", HUGE), ("batch_size", HUGE), ("k", HUGE)],
    ids=lambda value: value if isinstance(value, str) else "large",
)
def test_a_scan_of_absurd_size_is_refused(name, value):
    assert refused(SettingsError, lambda: ScanConfig(**{name: value})).startswith(f"{name} is at most")


def test_a_sample_of_absurd_size_takes_the_room_of_the_windows_there_are(gpt2):
    settings = {"length": 3, "sample": 10**7, "progress": False, "cache": False}
    examples = dl.max_activating("L1.N3", gpt2.bridge, ["the dog and the cat"], **settings)
    assert len(examples[0].sample[0]) == examples.counts["windows"]


def test_long_names_and_texts_give_short_errors(gpt2):
    bridge = gpt2.bridge
    refused(UnknownHookError, lambda: dl.score(dl.hook(LONG), "the", bridge))
    refused(UnknownHookError, lambda: dl.score(dl.hook("blocks." * 10_000), "the", bridge))
    refused(UnknownHookError, lambda: dl.score(dl.hook(f"blocks.{'9' * 5000}.x"), "the", bridge))
    refused(TokenError, lambda: dl.score(dl.logit(LONG), "the", bridge))
    refused(SettingsError, lambda: dl.dream("L1.N3", bridge, **{LONG: 1}))
    refused(SettingsError, lambda: dl.dream("L1.N3", bridge, length=LONG))
    refused(ConstraintError, lambda: dl.dream("L1.N3", bridge, constraints=dl.constraints.fix({0: LONG}), **SMALL))
    refused(ConstraintError, lambda: dl.dream("L1.N3", bridge, constraints=dl.constraints.fix({HUGE: "a"}), **SMALL))
    refused(ConstraintError, lambda: dl.constraints.template(LONG))
    refused(TokenError, lambda: dl.dream("L1.N3", bridge, constraints=dl.constraints.forbid_tokens(LONG), **SMALL))
    refused(CorpusError, lambda: dl.corpus.open(LONG))
    for name in (LONG, "/" + LONG, "a\0b", "~nobody_of_this_name/model"):
        refused(ModelError, lambda name=name: dl.load_model(name))
    refused(ModelError, lambda: dl.load_model(device=LONG))
    refused(ModelError, lambda: dl.load_model(dtype=LONG))


def test_names_are_compared_in_bounded_time():
    names = [f"blocks.{i}.hook_resid_post" for i in range(100)]
    assert close_names("x" * 10**7, names) == []
    assert close_names("blocks.3.hook_resid_pots", names, 1) == ["blocks.3.hook_resid_post"]
    assert nearest("blocks.3." + "hook_resid" * 10**5, names) == ["blocks.3.hook_resid_post"]
    assert nearest("blocks.3.hook_resid_pots", names)[0] == "blocks.3.hook_resid_post"
    assert len(str(unknown_setting("lenght" * 10**5, ["length"]))) < 300


def test_values_are_shown_as_they_are_or_with_their_length():
    assert quoted("a'b") == repr("a'b") and quoted(LONG, 3) == "'xxx'… (1,000,000 characters)"
    assert quoted([1] * 1000, 4) == "[1, … (3,000 characters)" and quoted(None) == "None"
    assert quoted(HUGE) == "a number of thousands of digits" and shorten("abc", 3) == "abc"


def test_counts_of_the_command_line_are_bounded():
    for text in ("9" * 400, "9" * 18 + "G"):
        with pytest.raises(argparse.ArgumentTypeError, match="more than any corpus has"):
            count_option(text)
