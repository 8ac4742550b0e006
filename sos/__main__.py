"""`python -m sos`: the same as the `sos` command."""

from __future__ import annotations

from sos.cli.main import main

if __name__ == "__main__":
    main()
