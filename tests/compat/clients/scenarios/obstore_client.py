"""obstore (object_store): create, update, ranges, multipart, copy-if-not-exists, rename, lists from an offset."""

import boto3
import obstore
from common import ACCESS_KEY, BUCKET, ENDPOINT, MIB, ODD_NAMES, SECRET_KEY, check, data
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.store import S3Store

boto3.client("s3", endpoint_url=ENDPOINT, region_name="us-east-1").create_bucket(Bucket=BUCKET)
store = S3Store(
    BUCKET,
    endpoint=ENDPOINT,
    region="us-east-1",
    access_key_id=ACCESS_KEY,
    secret_access_key=SECRET_KEY,
    client_options={"allow_http": True},
)
for name in ODD_NAMES:
    if len(name) < 900:
        obstore.put(store, f"odd/{name.strip('/')}", name.encode())
listed = sorted(one["path"] for page in obstore.list(store, prefix="odd") for one in page)
check(len(listed) == len([n for n in ODD_NAMES if len(n) < 900]), "the listing has every odd name")
big = data(29 * MIB)
obstore.put(store, "big", big, use_multipart=True, chunk_size=5 * MIB)
check(obstore.get(store, "big").bytes() == big, "29 MiB in parts")
check(
    bytes(obstore.get_range(store, "big", start=5 * MIB - 2, end=5 * MIB + 2))
    == big[5 * MIB - 2 : 5 * MIB + 2],
    "a range",
)
obstore.put(store, "once", b"1", mode="create")
try:
    obstore.put(store, "once", b"2", mode="create")
    check(False, "create is refused when the key is there")
except AlreadyExistsError:
    pass
head = obstore.head(store, "once")
obstore.put(store, "once", b"3", mode={"e_tag": head["e_tag"]})
try:
    obstore.put(store, "once", b"4", mode={"e_tag": head["e_tag"]})
    check(False, "update with a stale ETag is refused")
except PreconditionError:
    pass
check(obstore.get(store, "once").bytes() == b"3", "the update that was right")
obstore.copy(store, "once", "twice", overwrite=True)
obstore.rename(store, "twice", "thrice")
check(obstore.get(store, "thrice").bytes() == b"3", "copied and renamed")
after = sorted(one["path"] for page in obstore.list(store, offset="once") for one in page)
check(after == ["thrice"], "a list from an offset")
obstore.delete(store, ["big", "once", "thrice", *listed])
check([one for page in obstore.list(store) for one in page] == [], "deletes of many")
print(obstore.__version__)
