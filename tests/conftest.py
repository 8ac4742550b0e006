"""What holds for every test run."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A run in the background of a script ignores Ctrl-C, and so would every node and command that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
