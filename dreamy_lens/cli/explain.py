"""Command `dreamy-lens explain`."""

from __future__ import annotations

import argparse

import dreamy_lens as dl
from dreamy_lens.cli.commands import Commands
from dreamy_lens.cli.options import add_model, add_page, add_quiet, announce, load_selected_model
from dreamy_lens.cli.output import add_output, print_result
from dreamy_lens.errors import SettingsError
from dreamy_lens.results.explanation import Explanation

NOTICE = """\
Without --llm nothing is sent anywhere: the command prints the prediction scores, and --prompt prints what a language
model would be shown. With --llm, dreams and windows of the corpus are sent to that address. The key of a service is
read from the environment variable OPENAI_API_KEY."""


def add_explain(commands: Commands) -> None:
    """Add the command `explain`."""
    parser = commands.add("explain", _explain)
    parser.epilog = NOTICE
    parser.add_argument("folder", metavar="RUN", help="folder of a run")
    parser.add_argument("--examples", metavar="FOLDER", help="folder of a scan that has the feature")
    parser.add_argument("--llm", metavar="URL", help="address of an API in the style of OpenAI, as http://host:port/v1")
    parser.add_argument("--llm-model", metavar="NAME", help="name of the model at that address")
    parser.add_argument(
        "--evidence", choices=("both", "dreams", "windows"), default="both", help="what the model is shown (both)"
    )
    parser.add_argument("--count", type=int, default=10, metavar="N", help="dreams and windows that it is shown (10)")
    parser.add_argument("--timeout", type=float, default=120.0, metavar="S", help="most seconds to wait for a reply")
    parser.add_argument("--prompt", action="store_true", help="print the prompt, and nothing else")
    add_model(parser, bos=False)
    add_page(parser, "write the explanation and its scores as a self-contained page")
    add_output(parser, "all scores")
    add_quiet(parser, "do not say what is being done")


def _explain(options: argparse.Namespace) -> None:
    if options.llm and options.llm.startswith(("http://", "https://")) and not options.llm_model:
        raise SettingsError(f"--llm {options.llm} needs the name of a model there: --llm-model NAME.")
    run = dl.load_run(options.folder, load_selected_model(options) if options.model else None)
    announce("Asking for an explanation" if options.llm else "Preparing an explanation", options)
    explanation: Explanation = dl.explain(
        run,
        options.examples,
        options.llm,
        llm_model=options.llm_model,
        evidence=options.evidence,
        count=options.count,
        timeout=options.timeout,
    )
    if options.prompt:
        print(explanation.prompt)
        return
    document = {**explanation.to_dict(), "kind": "Explanation", "table": explanation.to_pandas().to_dict("records")}
    print_result(explanation, options, lambda: print(explanation), document)
