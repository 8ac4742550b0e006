"""minio (Python): buckets, small and multipart objects, stat, copy, compose, lists, tags, versioning, remove many."""

import io

import minio
from common import ACCESS_KEY, BUCKET, ENDPOINT, HOST, MIB, ODD_NAMES, SECRET_KEY, check, data
from minio.commonconfig import ENABLED, ComposeSource, CopySource, Tags
from minio.deleteobjects import DeleteObject
from minio.versioningconfig import VersioningConfig

client = minio.Minio(
    endpoint=HOST, access_key=ACCESS_KEY, secret_key=SECRET_KEY, secure=ENDPOINT.startswith("https")
)
client.make_bucket(bucket_name=BUCKET)
check(client.bucket_exists(bucket_name=BUCKET), "the bucket is there")
for name in ODD_NAMES:
    client.put_object(
        bucket_name=BUCKET,
        object_name=f"odd/{name}",
        data=io.BytesIO(name.encode()),
        length=len(name.encode()),
    )
names = {
    one.object_name
    for one in client.list_objects(bucket_name=BUCKET, prefix="odd/", recursive=True)
}
check(names == {f"odd/{name}" for name in ODD_NAMES}, "the listing has every odd name")
big = data(17 * MIB)
client.put_object(
    bucket_name=BUCKET, object_name="big", data=io.BytesIO(big), length=-1, part_size=5 * MIB
)
answer = client.get_object(bucket_name=BUCKET, object_name="big")
check(answer.read() == big, "17 MiB of unknown length")
answer.close()
answer.release_conn()
client.copy_object(
    bucket_name=BUCKET,
    object_name="copy",
    source=CopySource(bucket_name=BUCKET, object_name="odd/a+b"),
)
check(client.stat_object(bucket_name=BUCKET, object_name="copy").size == 3, "a copy")
client.compose_object(
    bucket_name=BUCKET,
    object_name="composed",
    sources=[
        ComposeSource(bucket_name=BUCKET, object_name="big"),
        ComposeSource(bucket_name=BUCKET, object_name="copy"),
    ],
)
check(
    client.stat_object(bucket_name=BUCKET, object_name="composed").size == len(big) + 3,
    "compose by part copies",
)
tags = Tags.new_object_tags()
tags["team"] = "a b"
client.set_object_tags(bucket_name=BUCKET, object_name="copy", tags=tags)
check(
    dict(client.get_object_tags(bucket_name=BUCKET, object_name="copy")) == {"team": "a b"}, "tags"
)
client.set_bucket_versioning(bucket_name=BUCKET, config=VersioningConfig(ENABLED))
check(client.get_bucket_versioning(bucket_name=BUCKET).status == ENABLED, "versioning")
client.put_object(bucket_name=BUCKET, object_name="copy", data=io.BytesIO(b"2"), length=1)
versions = list(client.list_objects(bucket_name=BUCKET, prefix="copy", include_version=True))
check(len(versions) == 2, "two versions")
everything = [
    DeleteObject(name=one.object_name, version_id=one.version_id)
    for one in client.list_objects(bucket_name=BUCKET, recursive=True, include_version=True)
]
check(
    list(client.remove_objects(bucket_name=BUCKET, delete_object_list=everything)) == [],
    "remove many",
)
client.remove_bucket(bucket_name=BUCKET)
print(minio.__version__)
