"""`python -m sos.child PARENT MODULE ARGUMENT...`: a process of the supervisor, tied to it from its first moment.

The imports of a core or a gateway take seconds on a busy machine. A child that set its death signal only
after them would outlive a killed supervisor for so long, and keep its ports taken.
"""

from __future__ import annotations

import os
import runpy
import sys

from sos.lifeline import die_with_parent


def child_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs ``module`` as a child of this process."""
    return [sys.executable, "-m", "sos.child", str(os.getpid()), module, *arguments]


def main() -> None:
    """Tie this process to its parent, then become ``python -m MODULE``."""
    if len(sys.argv) < 3 or not sys.argv[1].isdigit():
        sys.stderr.write("this module is started by `sos serve`\n")
        raise SystemExit(2)
    die_with_parent(int(sys.argv[1]))
    module = sys.argv[2]
    del sys.argv[:2]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
