"""Reading the request target: host, path, query, method (s3.md 1.4, 2.1-2.4)."""

from __future__ import annotations

import pytest

from sos.limits import HEADER_BYTES_MAX, KEY_BYTES_MAX
from sos.s3.errors import (
    InvalidArgument,
    InvalidBucketName,
    InvalidURI,
    KeyTooLongError,
    MethodNotAllowed,
    PreconditionFailed,
)
from sos.s3.head import parse_query, with_query_headers
from sos.s3.target import (
    REFUSED_ON_BUCKETS,
    REFUSED_ON_OBJECTS,
    SELECTORS,
    TRUTHFUL_ON_BUCKETS,
    TRUTHFUL_ON_OBJECTS,
    Kind,
    Resource,
    S3Settings,
    is_bucket_name,
)
from tests.unit.s3_support import find_target, make_head, refusal, sent_head

VIRTUAL = S3Settings(domains=("s3.example.com", "localhost"))


@pytest.mark.parametrize(
    ("path", "bucket", "key"),
    [
        ("/", "", ""),
        ("/b", "b", ""),
        ("/b/", "b", ""),
        ("/b/k", "b", "k"),
        ("/b//x", "b", "/x"),
        ("/b//", "b", "/"),
        ("/b/./../x", "b", "./../x"),
        ("/b/a%2Fb", "b", "a/b"),
        ("/b/a%252Fb", "b", "a%2Fb"),
        ("/b/a+b", "b", "a+b"),
        ("/b/a%20b%2B", "b", "a b+"),
        ("/b/%00%0A%0D", "b", "\x00\n\r"),
        ("/b/%E2%9C%93", "b", "✓"),
        ("/b/%F0%9F%98%80", "b", "😀"),
        ("/b/e%CC%81", "b", "e\u0301"),
        ("/b/dir/", "b", "dir/"),
        ("/b/a#b", "b", "a#b"),
        ("http://h/b/k", "b", "k"),
        ("HTTP://h:1/b/k", "b", "k"),
        ("http://h", "", ""),
        ("http://h?x", "", ""),
    ],
)
def test_path_style(path: str, bucket: str, key: str) -> None:
    """The key is everything after the bucket's slash, decoded once, literal (s3.md 2.2)."""
    target = find_target("GET", path)
    assert (target.bucket, target.key) == (bucket, key)


@pytest.mark.parametrize(
    "raw", [b"/b/caf\xc3\xa9", b"/b/\xe2\x9c\x93%41"], ids=["raw UTF-8", "mixed"]
)
def test_raw_utf8_in_the_path(raw: bytes) -> None:
    """Bytes that are UTF-8 are what they say, encoded or not."""
    from sos.s3.target import parse_target

    target = parse_target(make_head("GET", raw), S3Settings())
    assert target.key in ("café", "✓A")


@pytest.mark.parametrize(
    "target", ["/b/%zz", "/b/%4", "/b/%", "/b/%ff", "/b/%ED%A0%80", "/%zz/k", "/b?%zz", "/b?a=%ff"]
)
def test_undecodable_targets(target: str) -> None:
    """Section 11: bad percent-encoding or bytes that are not UTF-8 -> 400 InvalidURI."""
    error = refusal(find_target, "GET", target)
    assert isinstance(error, InvalidURI)
    assert error.status == 400


@pytest.mark.parametrize("raw", [b"/b/\xff", b"/b/\xff%41", b"b/k", b"*", b"ftp://h/b"])
def test_undecodable_raw_targets(raw: bytes) -> None:
    """The same for raw bytes, and for targets in no known form."""
    from sos.s3.target import parse_target

    assert isinstance(
        refusal(lambda: parse_target(make_head("GET", raw), S3Settings())), InvalidURI
    )


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "DELETE"])
def test_key_length(method: str) -> None:
    """Section 11: a key over 1,024 bytes of UTF-8 -> 400 KeyTooLongError, every method."""
    assert find_target(method, "/b/" + "k" * KEY_BYTES_MAX).key == "k" * KEY_BYTES_MAX
    assert find_target(method, "/b/" + "%C3%A9" * 512).key == "é" * 512
    for key in ("k" * (KEY_BYTES_MAX + 1), "%C3%A9" * 512 + "k"):
        error = refusal(find_target, method, "/b/" + key)
        assert isinstance(error, KeyTooLongError)
        assert error.fields == (("Size", "1025"), ("MaxSizeAllowed", "1024"))


def test_empty_bucket_segment() -> None:
    """Section 11: ``//k`` -> 400 InvalidBucketName."""
    assert isinstance(refusal(find_target, "GET", "//k"), InvalidBucketName)


def test_header_section_size() -> None:
    """Section 11: headers over 8 KiB -> 400 RequestHeaderSectionTooLarge."""
    find_target("GET", "/b", {"x": "v" * (HEADER_BYTES_MAX - 100)})
    error = refusal(find_target, "GET", "/b", {"x": "v" * HEADER_BYTES_MAX})
    assert (error.status, error.code) == (400, "RequestHeaderSectionTooLarge")


@pytest.mark.parametrize(
    ("host", "bucket"),
    [
        ("b.s3.example.com", "b"),
        ("B.S3.Example.COM:9000", "b"),
        ("a.b.s3.example.com", "a.b"),
        ("b.localhost:80", "b"),
        ("s3.example.com", ""),
        ("xs3.example.com", ""),
        ("b.other.com", ""),
        ("127.0.0.1:9000", ""),
        ("[::1]:9000", ""),
        ("[::1]", ""),
    ],
)
def test_virtual_host_style(host: str, bucket: str) -> None:
    """A bucket is taken only from a host below a configured domain; never guessed (s3.md 2.1)."""
    from sos.s3.target import parse_target

    head = sent_head("GET", "/x/k", [(b"host", host.encode())])
    target = parse_target(head, VIRTUAL)
    assert (target.bucket, target.key) == ((bucket, "x/k") if bucket else ("x", "k"))
    if bucket:
        head = sent_head("PUT", "/", [(b"host", host.encode())])
        assert parse_target(head, VIRTUAL).kind is Kind.CREATE_BUCKET


@pytest.mark.parametrize(
    ("method", "target", "kind"),
    [
        ("GET", "/", Kind.LIST_BUCKETS),
        ("GET", "/?x-id=ListBuckets", Kind.LIST_BUCKETS),
        ("PUT", "/b", Kind.CREATE_BUCKET),
        ("PUT", "/b/", Kind.CREATE_BUCKET),
        ("HEAD", "/b", Kind.HEAD_BUCKET),
        ("DELETE", "/b", Kind.DELETE_BUCKET),
        ("GET", "/b?location", Kind.GET_BUCKET_LOCATION),
        ("GET", "/b", Kind.LIST_OBJECTS),
        ("GET", "/b?list-type=1", Kind.LIST_OBJECTS),
        ("GET", "/b?list-type=x", Kind.LIST_OBJECTS),
        ("GET", "/b?list-type=2", Kind.LIST_OBJECTS_V2),
        ("GET", "/b?list-type=2&list-type=1", Kind.LIST_OBJECTS_V2),
        ("GET", "/b?versions", Kind.LIST_OBJECT_VERSIONS),
        ("GET", "/b?versions=&prefix=x", Kind.LIST_OBJECT_VERSIONS),
        ("GET", "/b?uploads", Kind.LIST_MULTIPART_UPLOADS),
        ("POST", "/b?delete", Kind.DELETE_OBJECTS),
        ("POST", "/b/?delete=", Kind.DELETE_OBJECTS),
        ("PUT", "/b/k", Kind.PUT_OBJECT),
        ("PUT", "/b/k?x-id=PutObject&custom=1", Kind.PUT_OBJECT),
        ("GET", "/b/k", Kind.GET_OBJECT),
        ("HEAD", "/b/k?partNumber=1", Kind.HEAD_OBJECT),
        ("DELETE", "/b/k?versionId=null", Kind.DELETE_OBJECT),
        # a bucket's selector on a key path is answered for the bucket (seen)
        ("GET", "/b/k?location", Kind.GET_BUCKET_LOCATION),
        ("GET", "/b/k?versioning", Kind.GET_BUCKET_VERSIONING),
        ("PUT", "/b?versioning", Kind.PUT_BUCKET_VERSIONING),
        ("GET", "/b/k?cors", Kind.GET_BUCKET_SETTING),
        ("PUT", "/b?tagging", Kind.PUT_BUCKET_SETTING),
        # later waves
        ("POST", "/b/k?uploads", Kind.CREATE_MULTIPART_UPLOAD),
        ("PUT", "/b/k?partNumber=1&uploadId=u", Kind.UPLOAD_PART),
        ("GET", "/b/k?uploadId=u", Kind.LIST_PARTS),
        ("POST", "/b/k?uploadId=u", Kind.COMPLETE_MULTIPART_UPLOAD),
        ("DELETE", "/b/k?uploadId=u", Kind.ABORT_MULTIPART_UPLOAD),
        ("POST", "/b?uploadId=u", Kind.UNSUPPORTED),
        ("PUT", "/b?uploads", Kind.UNSUPPORTED),
        ("GET", "/b/k?attributes", Kind.GET_OBJECT_ATTRIBUTES),
        ("PUT", "/b/k?tagging", Kind.PUT_OBJECT_TAGGING),
        ("POST", "/b/k?select&select-type=2", Kind.UNSUPPORTED),
        ("PUT", "/b?versions", Kind.UNSUPPORTED),
    ],
)
def test_operation_by_method_and_query(method: str, target: str, kind: Kind) -> None:
    """Method, path and selectors name the operation (s3.md 1.1, 1.4, 2.3)."""
    assert find_target(method, target).kind is kind


def test_bucket_selector_drops_the_key() -> None:
    """``/b/k?location`` is about the bucket, ``/b/k?acl`` about the object (section 11)."""
    assert find_target("GET", "/b/k?location").key == ""
    assert find_target("GET", "/b/k?location").resource is Resource.BUCKET
    assert find_target("GET", "/b/k?acl").key == "k"
    assert find_target("POST", "/b/k?uploads").key == "k"


@pytest.mark.parametrize("selector", sorted(TRUTHFUL_ON_BUCKETS - {"uploads"}))
def test_truthful_selectors_of_buckets(selector: str) -> None:
    """1.4: GET tells the truth, PUT and POST are refused, DELETE has nothing to delete, HEAD is not allowed."""
    assert find_target("GET", f"/b?{selector}").kind is Kind.GET_SUBRESOURCE
    assert find_target("DELETE", f"/b?{selector}").kind is Kind.DELETE_SUBRESOURCE
    for method in ("PUT", "POST"):
        assert find_target(method, f"/b?{selector}").kind is Kind.UNSUPPORTED
    error = refusal(find_target, "HEAD", f"/b?{selector}")
    assert isinstance(error, MethodNotAllowed)


@pytest.mark.parametrize("selector", sorted(TRUTHFUL_ON_OBJECTS))
def test_truthful_selectors_of_objects(selector: str) -> None:
    """The same on an object's path."""
    assert find_target("GET", f"/b/k?{selector}").kind is Kind.GET_SUBRESOURCE
    assert find_target("DELETE", f"/b/k?{selector}").kind is Kind.DELETE_SUBRESOURCE
    assert find_target("PUT", f"/b/k?{selector}").kind is Kind.UNSUPPORTED


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
@pytest.mark.parametrize(
    "target",
    [f"/b?{selector}" for selector in sorted(REFUSED_ON_BUCKETS)]
    + [f"/b/k?{selector}" for selector in sorted(REFUSED_ON_OBJECTS)],
)
def test_refused_selectors(method: str, target: str) -> None:
    """1.4: 501 with any method; nothing falls through to the plain operation."""
    assert find_target(method, target).kind is Kind.UNSUPPORTED


def test_every_selector_of_the_sdk_is_known() -> None:
    """No selector of the AWS model may be taken for an unknown parameter: a PUT would store its XML as an object."""
    from botocore.loaders import Loader

    model = Loader().load_service_model("s3", "service-2")
    named = set()
    for operation in model["operations"].values():
        query = operation["http"]["requestUri"].partition("?")[2]
        named |= {pair.partition("=")[0] for pair in query.split("&") if pair}
    assert named - SELECTORS == {"list-type", "select-type"}


def test_two_selectors() -> None:
    """Section 11: two selectors -> 400 InvalidArgument; a repeated name counts once."""
    error = refusal(find_target, "GET", "/b?acl&location")
    assert isinstance(error, InvalidArgument)
    assert error.message == "Conflicting query string parameters: acl, location"
    assert error.fields == (("ArgumentName", "ResourceType"), ("ArgumentValue", "acl"))
    assert find_target("GET", "/b?acl&acl").selector == "acl"


@pytest.mark.parametrize(
    ("method", "target", "resource"),
    [
        ("PATCH", "/", "SERVICE"),
        ("PATCH", "/b", "BUCKET"),
        ("PATCH", "/b/k", "OBJECT"),
        ("POST", "/", "SERVICE"),
        ("PUT", "/", "SERVICE"),
        ("HEAD", "/", "SERVICE"),
        ("POST", "/b/k", "OBJECT"),
        ("POST", "/b/k?unknown", "OBJECT"),
        ("TRACE", "/b/k", "OBJECT"),
        ("HEAD", "/b?location", "BUCKET"),
        ("HEAD", "/b/k?uploadId=x", "OBJECT"),
        ("PUT", "/b?delete", "BUCKET"),
        ("GET", "/b?delete", "BUCKET"),
        ("PUT", "/b?location", "BUCKET"),
        ("DELETE", "/b?versions", "BUCKET"),
        ("PATCH", "/b?acl", "BUCKET"),
    ],
)
def test_methods_that_are_not_allowed(method: str, target: str, resource: str) -> None:
    """2.4 and section 11: 405 with Allow, Method and ResourceType."""
    error = refusal(find_target, method, target)
    assert isinstance(error, MethodNotAllowed)
    assert error.status == 405
    assert error.fields == (("Method", method), ("ResourceType", resource))
    assert [name for name, _ in error.headers] == ["Allow"]
    assert method not in dict(error.headers)["Allow"].split(", ")


def test_post_on_a_bucket() -> None:
    """2.4: not a form -> 412; a form is PostObject (its authentication is inside)."""
    error = refusal(find_target, "POST", "/b")
    assert isinstance(error, PreconditionFailed)
    assert error.status == 412
    form = {"content-type": "multipart/form-data; boundary=x"}
    assert find_target("POST", "/b", form).kind is Kind.POST_OBJECT


def test_preflight() -> None:
    """2.6: OPTIONS needs no authentication, but an Origin (section 11)."""
    target = find_target("OPTIONS", "/b/k", {"origin": "http://o"})
    assert (target.kind, target.bucket, target.key) == (Kind.PREFLIGHT, "b", "k")
    assert refusal(find_target, "OPTIONS", "*").code == "BadRequest"


def test_query_rules() -> None:
    """2.3: split at ``&``, then the first ``=``; ``+`` is a space; empty pieces are nothing."""
    assert parse_query("a=b=c&d+e=%2B&f&&g=") == (
        ("a", "b=c"),
        ("d e", "+"),
        ("f", ""),
        ("g", ""),
    )
    assert make_head("GET", "/b?a=1&a=2").params == {"a": "1"}


def test_headers_are_trimmed_lowered_and_joined() -> None:
    """Names compare without case; repeats are joined (RFC 9110, 5.3)."""
    head = sent_head("GET", "/", [(b"X-A", b" 1 "), (b"x-a", b"2"), (b"X-L", b"\xe9")])
    assert head.headers == {"x-a": "1,2", "x-l": "é"}


def test_parameters_of_presigned_urls_act_as_headers() -> None:
    """2.3: ``x-amz-*`` parameters of the operation count as headers; those of the signature do not; headers win."""
    head = make_head(
        "PUT",
        "/b/k?X-Amz-Date=d&X-Amz-Signature=s&X-Amz-Meta-A=1&x-amz-acl=private&x-amz-meta-b=2&x-id=x",
        {"x-amz-meta-b": "sent"},
    )
    headers = with_query_headers(head).headers
    assert headers["x-amz-meta-a"] == "1"
    assert headers["x-amz-acl"] == "private"
    assert headers["x-amz-meta-b"] == "sent"
    assert not {"x-amz-date", "x-amz-signature", "x-id"} & set(headers)


@pytest.mark.parametrize(
    "query", ["x-amz-meta-a=1%0D%0Ax:%20y", "x-amz-meta-a%0D%0Ab=1", "x-amz-a%20b"]
)
def test_parameters_cannot_break_headers(query: str) -> None:
    """A decoded CR LF would split the response in which the value comes back."""
    assert isinstance(
        refusal(with_query_headers, make_head("PUT", f"/b/k?{query}")), InvalidArgument
    )


@pytest.mark.parametrize(
    ("name", "valid"),
    [
        ("abc", True),
        ("a.b-c", True),
        ("1.2.3", True),
        ("a" * 63, True),
        ("ab", False),
        ("a" * 64, False),
        ("Abc", False),
        ("a_b", False),
        ("-abc", False),
        ("abc-", False),
        (".abc", False),
        ("a..b", False),
        ("a.-b", False),
        ("a-.b", False),
        ("192.168.5.4", False),
        ("xn--abc", False),
        ("sthree-abc", False),
        ("amzn-s3-demo-abc", False),
        ("abc-s3alias", False),
        ("abc--ol-s3", False),
        ("abc.mrap", False),
        ("abc--x-s3", False),
        ("abc--table-s3", False),
        ("abé", False),
        ("a١b", False),
        ("abc\n", False),
        ("", False),
    ],
)
def test_bucket_names(name: str, valid: bool) -> None:
    """1.1.2 (UG: bucketnamingrules)."""
    assert is_bucket_name(name) is valid
