"""Commands of the command line, with what each is for. This module imports no library that takes time to import."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple


class Command(NamedTuple):
    """Command of the command line.

    Attributes:
        module: Module of `dreamy_lens.cli` that has the function `add_NAME`, which adds the command to a parser.
        help: Description of the command, in the imperative.
    """

    module: str
    help: str


COMMANDS = {
    "demo": Command("demo", "dream of one neuron of the embedded model, print the frontier, and write a page"),
    "dream": Command("dream", "search for prompts that drive a feature, and print the frontier"),
    "attribute": Command("model", "show which tokens of a prompt carry a feature"),
    "upstream": Command("upstream", "show which components of a model make a feature's value on a prompt"),
    "explain": Command("explain", "say in words what drives a feature, with scores, from a saved run and a scan"),
    "steer": Command("interventions", "change a feature at strengths, and show what the model predicts and writes"),
    "ablate": Command("interventions", "take heads, MLPs or features out of a model, and show what changes"),
    "patch": Command("interventions", "patch activations of a prompt into a neutral one, by layer and position"),
    "mechanisms": Command("mechanisms", "show in how many ways the prompts of a run drive their feature"),
    "baselines": Command("baselines", "compare a feature's values on a run's prompts with random prompts and windows"),
    "generate": Command("model", "let a model continue a prompt, and print what it writes"),
    "scan": Command("corpus", "find the windows of a corpus that drive features to their highest values"),
    "compare": Command("corpus", "compare saved runs with the windows of a corpus"),
    "card": Command("corpus", "write one page about a feature: dreams, corpus windows, attribution and logit effect"),
    "sweep": Command(
        "sweep", "search for prompts that drive features, with many seeds, and save each run as it finishes"
    ),
    "study": Command("study", "repeat an experiment of the paper on a model, and put what it found beside the paper"),
    "direction": Command("direction", "compute a direction from two files of texts, and save it for features"),
    "hooks": Command("model", "list a model's hook points with their shapes"),
    "show": Command(
        "dream", "print what is saved in a folder: the frontier of a run or of several, a sweep, or a scan"
    ),
    "doctor": Command("model", "check a model and a feature, and report problems"),
}
"""All commands, in the order in which the help lists them."""

FEATURES = """features:
  L2.N17                                             an MLP neuron, after its nonlinearity, at the last token
  blocks.2.mlp.hook_pre[-1, 17]                      before the nonlinearity; `dreamy-lens hooks` lists hook points
  blocks.2.mlp.hook_post[..., 17].max()              the neuron's maximum over all tokens
  blocks.4.hook_resid_post[-1].standardised() @ "v.safetensors"
  blocks.3.attn.hook_pattern[0, -1, 2]               head 0's attention from the last token to the third
  'logit(" the") - logit.runner_up(" the")'          a prediction, as in Eq. 3
  'sae_latent("folder", 123, pre_activation=true)'   a latent of a sparse autoencoder; also "hf://owner/repo/folder"
"""
"""Help on the syntax of features, for every command that takes a feature."""


class CommandParser(argparse.ArgumentParser):
    """Parser that knows its options."""

    @property
    def known_options(self) -> list[argparse.Action]:
        """Options and arguments, in the order in which they were added."""
        return self._actions


class Commands:
    """Commands of a parser.

    Args:
        parser: Parser that gets the commands.
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=CommandParser)

    def add(
        self, name: str, run: Callable[[argparse.Namespace], int | None], features: bool = False
    ) -> argparse.ArgumentParser:
        """Add a command, and return its parser.

        Args:
            name: Name of the command, one of :data:`COMMANDS`.
            run: Function that carries out the command and returns the exit status; None is 0.
            features: Whether the command takes a feature; then its help ends with the syntax of features.

        Returns:
            Parser of the command.
        """
        syntax_help: dict[str, Any] = {"epilog": FEATURES, "formatter_class": argparse.RawDescriptionHelpFormatter}
        help = COMMANDS[name].help
        description = f"{help[0].upper()}{help[1:]}."
        parser = self._parsers.add_parser(name, help=help, description=description, **(syntax_help if features else {}))
        parser.set_defaults(run=run, misused=parser.error, parser=parser)
        return parser

    def list_only(self, name: str) -> None:
        """Add a command without its options, for the list of all commands.

        Args:
            name: Name of the command, one of :data:`COMMANDS`.
        """
        self._parsers.add_parser(name, help=COMMANDS[name].help)
