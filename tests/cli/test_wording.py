"""Errors and warnings on the command line name its options, not the keywords of Python."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamy_lens.cli.main import main, make_parser
from dreamy_lens.cli.wording import in_options


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    return make_parser(["dream"]).parse_args(["dream", "L0.N1"]).parser


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("iterations is -1; it must be positive.", "--iterations is -1; it must be positive."),
        (
            "length is 0; it must be at least 1, or None for 12.",
            "--length is 0; it must be at least 1, or leave it out for 12.",
        ),
        ("a lower lambda_min is wrong", "a lower --lambda-min is wrong"),
        ("use prepend_bos=False.", "use --no-bos."),
        ("use prepend_bos=True, or no BOS", "use --bos, or no BOS"),
        ('or use search="random", which needs none', "or use --search random, which needs none"),
        ("load the model with dtype='bfloat16'", "load the model with --dtype bfloat16"),
        ("as in length=(4, 16), or one", "as in --shortest 4 --length 16, or one"),
        ("leave it out: max_cross_entropy=None.", "leave it out: no --max-cross-entropy."),
        ("a step of seconds=1e-3, or seconds=60.", "a step of --seconds 1e-3, or --seconds 60."),
        # Python stays Python, and what only looks like an option stays what it is.
        ("load_sae(..., seed=3, prepend_bos=False)", "load_sae(..., seed=3, prepend_bos=False)"),
        ("dl.FrontierSearch(length=(4, 16)) has them", "dl.FrontierSearch(length=(4, 16)) has them"),
        ("the file data/lambda_min.json, or lambda_min.csv", "the file data/lambda_min.json, or lambda_min.csv"),
        ("config.lambda_min in 'lambda_min'", "config.lambda_min in 'lambda_min'"),
        ("the search has more iterations", "the search has more iterations"),
        ("no_such_name=3 and unknown_name is 4", "no_such_name=3 and unknown_name is 4"),
    ],
)
def test_keywords_become_options(parser, message, expected):
    assert in_options(message, parser) == expected


@given(st.text(st.characters(exclude_characters="_=")))
def test_a_text_without_keywords_stays_as_it_is(text):
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size")
    assert in_options(text, parser) == text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dream", "L2.N8", "--iterations", "-1"], "dreamy-lens: --iterations is -1; "),
        (["dream", "L2.N8", "--shortest", "9", "--length", "4"], "as in --shortest 4 --length 16."),
        (["scan", "L2.N8", "--batch-size", "0", "--tokens", "1k"], "--batch-size is a whole number of at least 1"),
        (["generate", "the dog", "--temperature", "-1"], "--temperature is -1.0"),
    ],
)
def test_commands_answer_with_their_options(words, message, capsys):
    assert main(words) == 1
    assert message in capsys.readouterr().err
