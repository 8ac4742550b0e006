"""The use cases: the only layer that joins the catalog, the link to the core and the blob store.

Owns the order of effects: bytes durable on a write quorum, then one command; a read barrier, then a
view. Promises: what it refuses it refuses from a view taken after a barrier that began after the call;
an outcome is told only if it is known. Refuses to know HTTP, XML and S3's error codes.

    CatalogAccess(link, reader)            await .read(query) -> query(view), .peek(query)      access.py
    BucketService(access, clock)           create, delete, find, list_all, list_keys            buckets.py
    ObjectService(access, blobs, ...)      put, find, open, delete, delete_many, copy           objects.py
Raises everywhere: Unavailable (certainly not applied), OutcomeUnknown (perhaps).
"""
