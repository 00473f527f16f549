"""Errors and warnings on the command line name its options, not the keywords of Python."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreamy_lens.cli.commands import CommandParser
from dreamy_lens.cli.main import main, make_parser
from dreamy_lens.cli.wording import in_options


def options_of(*words: str) -> argparse.Namespace:
    options = make_parser(words[:1]).parse_args(words)
    options.words = list(words)
    return options


DREAM = options_of("dream", "L0.N1")


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
def test_keywords_become_options(message, expected):
    assert in_options(message, DREAM) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dream", "L2.N8", "--out", "top_k"], "continue it with --resume top_k"),
        (["dream", "L2.N8", "--model", "length=3"], "There is no folder 'length=3'"),
        (["dream", 'sae_latent("top_k", 3)'], "The SAE folder top_k has no cfg.json"),
        (["dream", "length=3 @@ seed=4"], "length=3 @@ seed=4\n  ^"),
        (["ablate", "L0.H1", "--prompt", "the", "--token", "seed=3 x"], "The target 'seed=3 x' is 5 tokens"),
    ],
)
def test_what_the_user_typed_stays(words, message):
    assert in_options(message, options_of(*words)) == message


@pytest.mark.parametrize("message", ["no file 'the top_k seed=3'", 'got "length=3, or None"', "in `top_k`: “length=4”"])
def test_quotations_stay(message):
    assert in_options(message, DREAM) == message


def test_a_keyword_without_a_value_is_an_option_too():
    assert in_options("name one with text_field=.", options_of("scan", "L0.N1")) == "name one with --text-field."
    assert in_options("n_tokens is 0; give 1.", options_of("generate", "dog")) == "--tokens is 0; give 1."


@given(st.text(st.characters(exclude_characters="_=,")))
def test_a_text_without_keywords_stays_as_it_is(text):
    parser = CommandParser()
    parser.add_argument("--batch-size")
    assert in_options(text, argparse.Namespace(parser=parser, words=[])) == text


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
