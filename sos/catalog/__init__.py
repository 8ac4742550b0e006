"""The replicated state machine: which buckets, objects, blobs, access keys and members exist.

Owns every rule of the catalog (``rules``: pure, total, deterministic), its bytes (``codec``, ``records``,
``keys``) and its LMDB environment (``environment`` is the door, ``store`` writes, ``views`` reads).
Promises: equal applied index means equal catalog digest; a batch of entries and its applied index share one
transaction; a record that fails its checksum is never returned. Refuses to know Raft, sockets and clocks.

Bytes (``codec``; every decoder raises only ``PackingError``):
    encode_command(command) -> bytes            decode_command(data) -> Command
    encode_result(result) -> bytes              decode_result(data) -> Result
    encode_entry(operations) -> payload         decode_entry(payload) -> list[Operation]       first byte 0x01
    encode_members(members) -> payload          decode_members(payload) -> tuple[Member, ...]  first byte 0x02
    encode_formation(record) -> bytes           decode_formation(data) -> FormationRecord

The core (single writer; one thread at a time; not fork-safe):
    CatalogStore.create(directory, formation) / CatalogStore.open(directory)     directory = DATA/catalog
    store.applied() -> (index, term)            store.apply(entries) -> one result per entry
        result: None for noop and members, list[bytes] (encoded results) for operations
        Raises FatalStop: nothing of the batch took effect, the store is unusable, the process must end.
    store.view() -> View (context manager)      store.members() -> MemberList(index, members)
    store.generation   store.clear_stale_readers() -> int    store.close()   store.keep_room(ahead_bytes) -> bool
    store.durable_index: the journal may drop entries up to it     store.sync()
    store.copy_snapshot(file) -> CopyPoint(index, term, size_bytes)      long: call it in a thread
    verify_snapshot(file) -> CopyPoint          checks every record; in another process than the core
    store.install_snapshot(file, boundary=b"") -> CopyPoint        new generation; ``store.boundary() -> bytes | None``
    store.remove_old_generations()              when the gateways changed over (open() does it too)
    probe: run ``python -m sos.catalog.probe DIR`` in a child before the first open

A gateway (read-only; own process):
    CatalogReader(directory)    reader.view(index=0, generation=0) -> View (context manager; raises ViewBehind)
    View: generation, applied_index, applied_term, bucket(name), buckets(), object(bucket_id, key),
        inline_body(blob), blob(blob), holders(blob), access_key(id), access_keys(), members(), formation(),
        list_keys(bucket_id, prefix=, delimiter=, after=, limit=) -> KeyPage, blobs(after, limit), owed(node, after, limit),
        forgotten(after, limit), was_forgotten(blob), sweep_floor(), member_copies(node), member_list(), counters(), digests(),
        stored_result(request_id), scan_digest()
    Every method raises Corruption, naming table and key, for a record that fails its checksum.
    No view lives across an await.
"""
