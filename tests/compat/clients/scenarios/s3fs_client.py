"""s3fs with pandas and pyarrow: files, directories, moves, exclusive creation, parquet there and back."""

import pandas as pd
import s3fs
from common import BUCKET, ENDPOINT, MIB, ODD_NAMES, check, data

fs = s3fs.S3FileSystem(endpoint_url=ENDPOINT)
fs.mkdir(BUCKET)
for name in ODD_NAMES:
    if "?" in name:
        continue  # s3fs reads "?versionId" out of paths
    fs.pipe(f"{BUCKET}/odd/{name}", name.encode())
found = set(fs.find(f"{BUCKET}/odd"))
check(
    found == {f"{BUCKET}/odd/{name}" for name in ODD_NAMES if "?" not in name},
    "find has every odd name",
)
big = data(60 * MIB)
with fs.open(f"{BUCKET}/big", "wb", block_size=5 * MIB) as file:
    file.write(big)
check(fs.cat(f"{BUCKET}/big") == big, "60 MiB in parts")
check(
    fs.cat_file(f"{BUCKET}/big", start=5 * MIB - 3, end=5 * MIB + 3)
    == big[5 * MIB - 3 : 5 * MIB + 3],
    "a range",
)
fs.mv(f"{BUCKET}/big", f"{BUCKET}/moved")
check(fs.exists(f"{BUCKET}/moved") and not fs.exists(f"{BUCKET}/big"), "moved")
try:
    with fs.open(f"{BUCKET}/moved", "xb") as file:
        file.write(b"x")
    check(False, "exclusive creation is refused")
except FileExistsError:
    pass
frame = pd.DataFrame({"a": range(10_000), "b": [f"row {n}" for n in range(10_000)]})
options = {"endpoint_url": ENDPOINT}
frame.to_parquet(f"s3://{BUCKET}/table.parquet", storage_options=options)
check(
    pd.read_parquet(f"s3://{BUCKET}/table.parquet", storage_options=options).equals(frame),
    "parquet",
)
frame.to_csv(f"s3://{BUCKET}/table.csv", index=False, storage_options=options)
check(len(pd.read_csv(f"s3://{BUCKET}/table.csv", storage_options=options)) == 10_000, "csv")
fs.rm(BUCKET, recursive=True)
check(not fs.exists(f"{BUCKET}/moved"), "removed")
print(s3fs.__version__)
