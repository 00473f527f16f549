"""Run the command `dreamy-lens` as `python -m dreamy_lens`."""

import sys

from dreamy_lens.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
