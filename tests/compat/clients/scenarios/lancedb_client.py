"""lancedb: a table of vectors, appended to and searched."""

import boto3
import lancedb
from common import ACCESS_KEY, BUCKET, ENDPOINT, SECRET_KEY, check

boto3.client("s3", endpoint_url=ENDPOINT, region_name="us-east-1").create_bucket(Bucket=BUCKET)
db = lancedb.connect(
    f"s3://{BUCKET}/lance",
    storage_options={
        "endpoint": ENDPOINT,
        "aws_access_key_id": ACCESS_KEY,
        "aws_secret_access_key": SECRET_KEY,
        "region": "us-east-1",
        "allow_http": "true",
    },
)
table = db.create_table("t", [{"id": n, "vector": [float(n), 1.0]} for n in range(100)])
for turn in range(5):
    table.add([{"id": 100 + turn, "vector": [1000.0 + turn, 1.0]}])
check(table.count_rows() == 105, "rows")
check(table.search([1004.0, 1.0]).limit(1).to_list()[0]["id"] == 104, "the nearest one")
check(db.open_table("t").version == table.version, "versions")
print(lancedb.__version__)
