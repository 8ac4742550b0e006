"""`sos verify DIR`: is everything in a stopped node's directory as it was written?

Owns no format: every part is read by the code that a start reads it with, over a disk that cannot be written.
Promises: nothing in the directory changes, not a byte and not a time of change; each finding is one line. Refuses to
repair: a node that starts does that, from the others.
"""
