"""deltalake: writers at the same time; every commit that was acknowledged is in the table, none twice."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import boto3
import deltalake
import pyarrow as pa
from common import ACCESS_KEY, BUCKET, ENDPOINT, SECRET_KEY, check

OPTIONS = {
    "AWS_ENDPOINT_URL": ENDPOINT,
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
    "aws_conditional_put": "etag",
}
TABLE = f"s3://{BUCKET}/table"
WRITERS, COMMITS = 4, 6


def write(writer: int) -> list[int]:
    """The numbers whose commit was acknowledged."""
    done = []
    for turn in range(COMMITS):
        number = writer * 1000 + turn
        rows = pa.table({"n": pa.array([number], pa.int64())})
        try:
            deltalake.write_deltalake(TABLE, rows, mode="append", storage_options=OPTIONS)
        except Exception as error:  # a commit that was refused did not happen
            print(f"writer {writer}: {type(error).__name__}: {error}"[:200])
            continue
        done.append(number)
    return done


if __name__ == "__main__":
    boto3.client("s3", endpoint_url=ENDPOINT, region_name="us-east-1").create_bucket(Bucket=BUCKET)
    deltalake.write_deltalake(
        TABLE, pa.table({"n": pa.array([-1], pa.int64())}), storage_options=OPTIONS
    )
    with ProcessPoolExecutor(WRITERS, mp_context=get_context("spawn")) as pool:
        done = [number for numbers in pool.map(write, range(WRITERS)) for number in numbers]
    table = deltalake.DeltaTable(TABLE, storage_options=OPTIONS)
    found = table.to_pyarrow_table()["n"].to_pylist()
    check(len(found) == len(set(found)), "no commit twice")
    check(
        set(done) <= set(found), f"no acknowledged commit is lost: {sorted(set(done) - set(found))}"
    )
    check(len(done) >= WRITERS * COMMITS // 2, f"most commits succeed: {len(done)}")
    check(table.version() == len(found) - 1, "versions without gaps")
    print(deltalake.__version__, flush=True)
    # deltalake 1.6.6 with pyarrow often aborts while the interpreter ends ("terminate called without an active
    # exception"), also where no node restarts. All that is checked here is checked by now.
    os._exit(0)
