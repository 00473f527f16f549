"""`python -m dreamy_lens` is the command `dreamy-lens`."""

import sys

from dreamy_lens.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
