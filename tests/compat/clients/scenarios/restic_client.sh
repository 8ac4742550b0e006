# restic: init, backup twice, check with all data read, restore, forget with prune, check.
set -Eeuo pipefail
trap 'echo "line $LINENO: $BASH_COMMAND" >&2' ERR
cd "$SOS_WORK"
export RESTIC_REPOSITORY="s3:$SOS_ENDPOINT/$SOS_BUCKET/repo" RESTIC_PASSWORD=secret RESTIC_CACHE_DIR="$SOS_WORK/cache"
mkdir -p up/sub
head -c 30000000 /dev/urandom > up/big
for n in $(seq 200); do echo "file $n" > "up/sub/file $n"; done
restic init -q
restic backup -q up
echo more > up/more; rm up/sub/file\ 7
restic backup -q up
restic check -q --read-data
restic restore -q latest --target down
diff -r up "down$(pwd)/up" 2> /dev/null || diff -r up down/up
restic forget -q --keep-last 1 --prune
restic check -q --read-data
test "$(restic snapshots --json | grep -o '"short_id"' | wc -l)" = 1
restic version | cut -d' ' -f2
