"""The S3 protocol: what a request means, who sent it, what is answered.

Owns every rule of the S3 port (API version 2006-03-01): parsing, signatures, body framing, digests, conditions,
documents, errors. Promises: nothing a client says is dropped silently; equal bytes get equal answers on every node.
Refuses to know Raft, LMDB, disks; only ``app``, ``body`` and the modules of the connection know a socket.

One request, in the order of s3.md 1.0 (every step raises ``errors.S3Error``; the first failure answers):
    wire.parse_head(bytes) -> WireHead   head.parse_head(wire) -> RequestHead                           step 1
    target.parse_target(head, settings: S3Settings(region, domains, superset)) -> Target(kind, ...)     step 2
    sigv4.parse_authorization(head, region=, now_ms=) -> Claim | Anonymous  (the app refuses Anonymous) step 3
    sigv4.verify(claim, secret_key, head, keys: SigningKeys) -> Verified      look claim.access_key up before
    parsing.parse_operation(target, head, verified.payload, settings, presigned=verified.presigned)     step 4
        -> operations.Operation: one dataclass per operation; every one but ListBuckets has .bucket, .expected_owner
The body of an operation with ``.body: BodyPlan(payload, digests, size_bytes, bytes_max, is_chunked)``:
    chunked.AwsChunkedDecoder(decoded_bytes=plan.size_bytes, trailer_name=plan.digests.trailer,
        signing=ChunkSigning.continue_from(verified))   .feed(bytes) -> [memoryview]   .finish() -> trailer | None
    checksums.BodyDigests(plan.digests)   .update(data)   .finish(trailer_value) -> Digests(md5, checksum, .etag)
        all digests of a body are judged in finish(): commit nothing before
    xml.parse_delete(data) -> DeleteRequest(quiet, entries)   xml.parse_create_bucket(data) -> constraint | None
    parsing.check_location(constraint, region)   also call it with None for a CreateBucket without a body
Decisions:
    conditional.evaluate_read(operation.conditions, etag=, modified_ms=, size_bytes=, now_ms=)
        -> Full | Partial(start, stop, shows_checksum) | NotModified
    listing.list_position(secret, token=, start_after=, superset=) -> str   listing.seal_token(secret, page.last)
    listing.page_buckets(buckets, secret=, prefix=, token=, max_buckets=)   checksums.new_hasher(algorithm) (copies)
Answers:
    xml.render_error(error, resource=, request_id=, host_id=), render_list_buckets, render_location,
        render_copy_result(etag=, modified_ms=, checksum=), render_delete_result(request, outcomes), bucket_arn
    listing_xml.render_list_objects, render_list_objects_v2(operation, page, owner_id=, next_token=),
        render_list_versions, render_list_multipart_uploads   (``page``: catalog.model.KeyPage)
    subresources.render_subresource(operation, owner_id=)   raises the 404 of what is not configured
    sending.AnswerSender(budget_bytes)   .send(stream, size_bytes, connection)   all streamed answers of a gateway
    metadata.DEFAULT_CONTENT_TYPE   checksums.checksum_headers(checksum)   dates.format_http_date(seconds)
    refusals.s3_error_for(rejection, Subject(...)) -> S3Error(status, code, message, fields, headers, close)
"""
