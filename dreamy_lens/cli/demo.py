"""Command `dreamy-lens demo`: a first dream on the embedded model, without any other input."""

from __future__ import annotations

from dreamy_lens import demo
from dreamy_lens.cli.commands import Commands


def add_demo(commands: Commands) -> None:
    """Add the command `demo`."""
    parser = commands.add("demo", demo.run_demo)
    demo.add_options(parser)
    parser.set_defaults(html_folders=False)
