"""pyarrow's own S3 file system: every write is a multipart upload; datasets, moves, deletes."""

import pyarrow as pa
import pyarrow.dataset as ds
from common import BUCKET, ENDPOINT, HOST, MIB, check, data
from pyarrow import fs

s3 = fs.S3FileSystem(
    endpoint_override=HOST,
    scheme=ENDPOINT.partition(":")[0],
    region="us-east-1",
    allow_bucket_creation=True,
    allow_bucket_deletion=True,
)
s3.create_dir(BUCKET)
big = data(33 * MIB)
with s3.open_output_stream(f"{BUCKET}/big") as out:
    out.write(big)
with s3.open_input_file(f"{BUCKET}/big") as file:
    check(file.read() == big, "33 MiB")
    file.seek(10 * MIB - 5)
    check(file.read(10) == big[10 * MIB - 5 : 10 * MIB + 5], "a range")
with s3.open_output_stream(f"{BUCKET}/empty") as out:
    pass
check(s3.get_file_info(f"{BUCKET}/empty").size == 0, "an empty file")
table = pa.table({"part": [n % 7 for n in range(50_000)], "value": list(range(50_000))})
ds.write_dataset(
    table,
    f"{BUCKET}/set",
    filesystem=s3,
    format="parquet",
    partitioning=["part"],
    existing_data_behavior="overwrite_or_ignore",
)
back = ds.dataset(
    f"{BUCKET}/set", filesystem=s3, format="parquet", partitioning=["part"]
).to_table()
check(
    back.num_rows == 50_000 and sorted(back["value"].to_pylist()) == list(range(50_000)),
    "a dataset",
)
s3.copy_file(f"{BUCKET}/big", f"{BUCKET}/copy")
s3.move(f"{BUCKET}/copy", f"{BUCKET}/moved")
check(s3.get_file_info(f"{BUCKET}/moved").size == len(big), "copied and moved")
names = {
    one.path
    for one in s3.get_file_info(fs.FileSelector(BUCKET, recursive=True))
    if one.type == fs.FileType.File
}
check(f"{BUCKET}/moved" in names and f"{BUCKET}/copy" not in names, "the selector")
s3.delete_dir_contents(BUCKET)
check(s3.get_file_info(fs.FileSelector(BUCKET, recursive=True)) == [], "emptied")
print(pa.__version__)
