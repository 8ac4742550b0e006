"""boto3: files in parts, odd names, copies, conditional creation, deletes of many."""

import io
import sys

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError
from common import BUCKET, ENDPOINT, MIB, ODD_NAMES, check, data

s3 = boto3.client(
    "s3", endpoint_url=ENDPOINT, region_name="us-east-1", config=Config(signature_version="s3v4")
)
s3.create_bucket(Bucket=BUCKET)
for name in ODD_NAMES:
    s3.put_object(Bucket=BUCKET, Key=f"odd/{name}", Body=name.encode(), Metadata={"n": "1"})
listed = [
    one["Key"]
    for page in s3.get_paginator("list_objects_v2").paginate(
        Bucket=BUCKET, Prefix="odd/", PaginationConfig={"PageSize": 5}
    )
    for one in page["Contents"]
]
check(
    sorted(listed, key=str.encode) == sorted((f"odd/{n}" for n in ODD_NAMES), key=str.encode),
    "the listing has every odd name",
)
for name in ODD_NAMES:
    check(s3.get_object(Bucket=BUCKET, Key=f"odd/{name}")["Body"].read() == name.encode(), name)
big = data(23 * MIB)
parts = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
s3.upload_fileobj(io.BytesIO(big), BUCKET, "big", Config=parts)
sink = io.BytesIO()
s3.download_fileobj(BUCKET, "big", sink, Config=parts)
check(sink.getvalue() == big, "23 MiB up and down in parts")
s3.copy({"Bucket": BUCKET, "Key": "big"}, BUCKET, "copy", Config=parts)
check(s3.head_object(Bucket=BUCKET, Key="copy")["ContentLength"] == len(big), "a managed copy")
s3.put_object(Bucket=BUCKET, Key="lock", Body=b"me", IfNoneMatch="*")
try:
    s3.put_object(Bucket=BUCKET, Key="lock", Body=b"you", IfNoneMatch="*")
    sys.exit("not so: the second conditional creation is refused")
except ClientError as error:
    check(error.response["ResponseMetadata"]["HTTPStatusCode"] == 412, "412")
check(s3.get_object(Bucket=BUCKET, Key="lock")["Body"].read() == b"me", "the first one stays")
answer = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in listed]})
check(len(answer["Deleted"]) == len(listed), "deletes of many")
check(s3.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 3, "what is left")
print(boto3.__version__)
