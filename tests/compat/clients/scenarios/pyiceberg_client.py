"""pyiceberg: a table in the store with its catalog in SQLite beside the test; appends and reads."""

import boto3
import pyarrow as pa
import pyiceberg
from common import ACCESS_KEY, BUCKET, ENDPOINT, SECRET_KEY, WORK, check
from pyiceberg.catalog.sql import SqlCatalog

boto3.client("s3", endpoint_url=ENDPOINT, region_name="us-east-1").create_bucket(Bucket=BUCKET)
catalog = SqlCatalog(
    "test",
    **{
        "uri": f"sqlite:///{WORK}/iceberg.db",
        "warehouse": f"s3://{BUCKET}/warehouse",
        "s3.endpoint": ENDPOINT,
        "s3.access-key-id": ACCESS_KEY,
        "s3.secret-access-key": SECRET_KEY,
        "s3.region": "us-east-1",
    },
)
catalog.create_namespace("ns")
rows = pa.table({"n": list(range(1000)), "s": [f"row {n}" for n in range(1000)]})
table = catalog.create_table("ns.t", schema=rows.schema)
for _ in range(4):
    table.append(rows)
check(catalog.load_table("ns.t").scan().to_arrow().num_rows == 4000, "rows of four appends")
check(len(catalog.load_table("ns.t").history()) == 4, "four snapshots")
print(pyiceberg.__version__)
