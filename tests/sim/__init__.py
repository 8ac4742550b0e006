"""The bed: three or five real engines with real journals in one process, on a virtual clock.

Replaced are only the edges: clock, links, disk, and a small durable state machine. One seed is one run;
the same seed gives the same trace.
"""
