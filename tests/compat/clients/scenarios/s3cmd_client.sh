# s3cmd: mb, put in parts, get, sync both ways, cp, mv, ls, du, del, rb.
set -Eeuo pipefail
trap 'echo "line $LINENO: $BASH_COMMAND" >&2' ERR
cd "$SOS_WORK"
host="${SOS_ENDPOINT#*//}"
case "$SOS_ENDPOINT" in https:*) tls="--ssl --no-check-certificate";; *) tls=--no-ssl;; esac
s3() { s3cmd --access_key="$AWS_ACCESS_KEY_ID" --secret_key="$AWS_SECRET_ACCESS_KEY" --host="$host" --host-bucket="$host" $tls --multipart-chunk-size-mb=5 "$@"; }
mkdir -p up/sub down
head -c 17000000 /dev/urandom > up/big
echo one > "up/with space"; echo two > "up/sub/a+b"; : > up/empty
s3 -q mb "s3://$SOS_BUCKET"
s3 -q sync up/ "s3://$SOS_BUCKET/dir/"
s3 -q sync "s3://$SOS_BUCKET/dir/" down/
diff -r up down
s3 -q cp "s3://$SOS_BUCKET/dir/big" "s3://$SOS_BUCKET/copy"
s3 -q mv "s3://$SOS_BUCKET/copy" "s3://$SOS_BUCKET/moved"
s3 -q get --force "s3://$SOS_BUCKET/moved" back
cmp back up/big
test "$(s3 ls -r "s3://$SOS_BUCKET" | wc -l)" = 5
s3 info "s3://$SOS_BUCKET/moved" > /dev/null
s3 du "s3://$SOS_BUCKET" > /dev/null
s3 multipart "s3://$SOS_BUCKET" > /dev/null
s3 -q del -r -f "s3://$SOS_BUCKET"
s3 -q rb "s3://$SOS_BUCKET"
s3cmd --version | cut -d' ' -f3
