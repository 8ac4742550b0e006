"""The `sos` command: parses, calls, prints.

Owns the words a person sees: every error is one line that says what to do, never a traceback.
Promises the contract of design.md section 4. Refuses to know how anything is done.
"""
