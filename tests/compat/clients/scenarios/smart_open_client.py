"""smart_open: streams there and back, in parts, gzip, seeks."""

import boto3
import smart_open
from common import BUCKET, ENDPOINT, MIB, check, data

client = boto3.client("s3", endpoint_url=ENDPOINT, region_name="us-east-1")
client.create_bucket(Bucket=BUCKET)
parameters = {"client": client, "min_part_size": 5 * MIB}
big = data(18 * MIB)
with smart_open.open(f"s3://{BUCKET}/big", "wb", transport_params=parameters) as out:
    for start in range(0, len(big), MIB):
        out.write(big[start : start + MIB])
with smart_open.open(f"s3://{BUCKET}/big", "rb", transport_params=parameters) as file:
    check(file.read() == big, "18 MiB in parts")
    file.seek(5 * MIB - 1)
    check(file.read(2) == big[5 * MIB - 1 : 5 * MIB + 1], "a seek")
with smart_open.open(f"s3://{BUCKET}/text.gz", "w", transport_params=parameters) as out:
    out.write("line\n" * 1000)
with smart_open.open(f"s3://{BUCKET}/text.gz", transport_params=parameters) as file:
    check(len(file.readlines()) == 1000, "gzip")
print(smart_open.__version__)
