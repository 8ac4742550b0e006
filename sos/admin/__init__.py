"""The internal listener: health, readiness, status, metrics, access keys.

Owns its routes and the proof that a caller holds the root secret key. Promises: `/readyz` answers 200 only when a
read barrier succeeded just now. Refuses to know Raft and the catalog: it asks the core through ``AdminHandler``.
"""
