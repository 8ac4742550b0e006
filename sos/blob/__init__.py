"""Immutable bytes by id: durable on this node's disk, streamed to the other members, verified before a byte leaves.

Owns the blob directory and the blob port. Promises: what ``commit`` returned survives power loss; no unverified byte is ever
given out; memory per transfer is bounded. Refuses to know: buckets, keys, the catalog, and who leads.

The public parts (``sos.blob`` itself imports nothing):

``files.py``    one node's files; several gateway processes of a node share one directory, nothing is kept in one process only
    prepare_directories(directory)                     at formation: the 256 directories, fsynced
    BlobFiles(directory, *, on_fatal, clock=..., ids=..., threads=8, reserve_bytes=...)
        .create(blob_id) -> BlobSink                   ``async with files.create(id) as sink: await sink.write(data);
                                                       stored = await sink.commit()``; leaving without commit keeps nothing
        await .open(blob_id, *, size_bytes=None, crc64=None) -> BlobFile
                                                       raises FileNotFoundError (not here), Corruption (damaged)
            await BlobFile.read_block(index) -> memoryview;  BlobFile.read(start, stop) -> async iterator;  .close()
        await .exists(blob_id) -> bool
        await .quarantine(blob_id) -> bool             .drop(blob_id) -> bool  (False: pinned, try later)
        await .inventory(after, limit) -> list[BlobId] ids above ``after`` in byte order; ``after=None`` starts afresh
        await .pin(blob_ids) -> list[BlobId]           those present, kept from ``drop`` for 30 s; renew every 5 s
        await .remove_leftovers() -> int               at start; safe while sibling gateways write
        .free_bytes() -> int;  .close()
    StoredBlob(blob_id, size_bytes, crc64)             crc64: 8 raw bytes, CRC64NVME of the whole blob
    errors: DiskFull (an OSError; ENOSPC, EDQUOT, reserve reached), FatalStop also goes to ``on_fatal`` (from any thread)
``handshake.py`` PeerIdentity(cluster_id, node, cluster_key);  PeerAddress(node, address="HOST:PORT")
``peer.py``     PeerServer(files, identity, *, is_named: Callable[[BlobId], bool], on_lost, admit: Callable[[NodeId], str | None])
        await .start(sock) / await .close()            ``sock``: a listening socket that the supervisor hands down
        .add_route(method, prefix, handler)            e.g. ("GET", "/snapshot/", handler); see ``exchange.PeerExchange``
``peer_client.py``
    PeerClient(identity)                               one per process; pools connections, probes silent peers
        await .ping(peer), .drop(peer, id), .inventory(peer, after, limit), .pin(peer, ids)
        async with .put(peer, id) as stream, .get(peer, id, start, stop) as answer
        async with .call(peer, method, target, body=None, answer_s_max=...) as answer    generic, for registered routes
        .is_suspect(node), .is_down(node) -> bool;  await .close()
    errors (in ``peer_errors.py``): PeerUnreachable, PeerRefused, PeerFull (all Unavailable), NotHere, Damaged (Corruption)
``replicas.py`` BlobWriter(files, peers, *, self_id, is_named, on_late_holder: Callable[[BlobId, NodeId], None], clock=...)
        await .write(chunks, *, blob_id, members: Sequence[PeerAddress], quorum: int)
            -> WrittenBlob(blob_id, size_bytes, crc64, holders: tuple[NodeId, ...])
               raises NoMajority (certainly nothing counted; StorageFull when disks are full); a failing ``chunks`` re-raises
        await .drop(blob_id, members)                  tells holders to drop; best effort, after a definite refusal
``fetch.py``    BlobReader(files, peers, *, self_id, on_lost: Callable[[BlobId], None])
        await .open(*, blob_id, size_bytes, crc64, holders: Sequence[PeerAddress], start=0, stop=None) -> BlobStream
            ``async with stream: async for view in stream``; the first block is verified before ``open`` returns;
            raises Unavailable (a listed holder could not be asked), Corruption (all said "not here" or "damaged")
            ``await stream.restart(position)`` lets go of what is in memory and goes on from there
        await .pull(*, blob_id, size_bytes, crc64, holders) -> bool     fetch a missing replica to this disk (resync); was it copied?
``bundle.py``   BundleServer(files), BundleReader(files, peers, *, self_id): many small replicas in one answer (resync)
"""
