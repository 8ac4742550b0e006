"""The core process of a node: Raft, the catalog's writer, the link's server, status and administration.

Owns the composition of one node's consensus side and its start order (``start``). Promises: an answer to a
gateway leaves only after the entry was applied here or on the leader; after a failure that stops the node
(``FatalStop``) nothing is acknowledged any more. Moves no bytes of blobs: gateway 0 does, as jobs.
"""
