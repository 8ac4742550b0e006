# litestream: a SQLite database replicated while it is written to, then restored and compared.
set -Eeuo pipefail
trap 'echo "line $LINENO: $BASH_COMMAND" >&2' ERR
cd "$SOS_WORK"
curl -sf --retry 9 --retry-all-errors -o /dev/null -X PUT -d '' -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' --aws-sigv4 aws:amz:us-east-1:s3 --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" "$SOS_ENDPOINT/$SOS_BUCKET"
cat > litestream.yml <<YML
dbs:
  - path: $PWD/app.db
    replica:
      type: s3
      bucket: $SOS_BUCKET
      path: replica
      endpoint: $SOS_ENDPOINT
      region: us-east-1
      force-path-style: true
      sync-interval: 200ms
YML
cat > writer.py <<'PY'
import sqlite3, time
db = sqlite3.connect("app.db")
db.execute("PRAGMA journal_mode=WAL")
db.execute("CREATE TABLE t (n INTEGER, s TEXT)")
for n in range(60):
    with db:
        db.executemany("INSERT INTO t VALUES (?, ?)", [(n, "x" * 500)] * 20)
    time.sleep(0.05)
PY
python3 -c 'import sqlite3; sqlite3.connect("app.db").execute("PRAGMA journal_mode=WAL")'
litestream replicate -config litestream.yml -exec "python3 writer.py" > replicate.log 2>&1 || { tail -3 replicate.log >&2; exit 1; }
litestream restore -config litestream.yml -o restored.db "$PWD/app.db" > restore.log 2>&1 || { tail -3 restore.log >&2; exit 1; }
python3 - <<'PY'
import sqlite3
rows = [sqlite3.connect(name).execute("SELECT n, count(*) FROM t GROUP BY n ORDER BY n").fetchall() for name in ("app.db", "restored.db")]
assert len(rows[0]) == 60 and rows[0] == rows[1], (len(rows[0]), len(rows[1]))
PY
litestream version | sed 's/^v//'
