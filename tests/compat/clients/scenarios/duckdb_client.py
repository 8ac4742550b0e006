"""DuckDB with its httpfs extension: parquet written to the store, globs, ranged reads."""

import boto3
import duckdb
from common import ACCESS_KEY, BUCKET, ENDPOINT, HOST, SECRET_KEY, check

boto3.client("s3", endpoint_url=ENDPOINT, region_name="us-east-1").create_bucket(Bucket=BUCKET)
db = duckdb.connect()
db.execute("INSTALL httpfs; LOAD httpfs")
db.execute(
    f"CREATE SECRET (TYPE s3, KEY_ID '{ACCESS_KEY}', SECRET '{SECRET_KEY}', ENDPOINT '{HOST}', URL_STYLE 'path',"
    f" USE_SSL {str(ENDPOINT.startswith('https')).lower()})"
)
for part in range(3):
    db.execute(
        f"COPY (SELECT range AS n, {part} AS part FROM range(100000)) TO 's3://{BUCKET}/p{part}.parquet'"
    )
found = db.execute(f"SELECT count(*), sum(n) FROM 's3://{BUCKET}/*.parquet'").fetchone()
check(found == (300_000, 3 * sum(range(100_000))), "a glob over three files")
print(duckdb.__version__)
