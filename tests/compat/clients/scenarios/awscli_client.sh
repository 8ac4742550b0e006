# aws-cli: mb, cp, sync both ways, ls, mv, presign, conditional put, multipart, rm, rb.
set -Eeuo pipefail
trap 'echo "line $LINENO: $BASH_COMMAND" >&2' ERR
export AWS_ENDPOINT_URL="$SOS_ENDPOINT" AWS_DEFAULT_REGION=us-east-1 AWS_PAGER=""
aws configure set default.s3.multipart_threshold 8MB
aws configure set default.s3.multipart_chunksize 5MB
aws configure set default.s3.signature_version s3v4
cd "$SOS_WORK"
mkdir -p up/sub
head -c 20000000 /dev/urandom > up/big
echo one > "up/with space"; echo two > "up/sub/a+b"; echo three > "up/größe"; : > up/empty
aws s3 mb "s3://$SOS_BUCKET" > /dev/null
aws s3 sync up "s3://$SOS_BUCKET/dir" --quiet
again="$(aws s3 sync up "s3://$SOS_BUCKET/dir")"
test -z "$again" || { echo "not so: a second sync copies nothing: $again"; exit 1; }
aws s3 sync "s3://$SOS_BUCKET/dir" down --quiet
diff -r up down
aws s3 cp "s3://$SOS_BUCKET/dir/big" "s3://$SOS_BUCKET/copy" --quiet
aws s3 mv "s3://$SOS_BUCKET/copy" "s3://$SOS_BUCKET/moved" --quiet
aws s3 cp "s3://$SOS_BUCKET/moved" - | cmp - up/big
test "$(aws s3 ls "s3://$SOS_BUCKET/" --recursive | wc -l)" = 6
# Without -f: again after a broken connection, 408, 429 and 5xx, never after an answer such as 403 or 404.
curl -s --retry 9 --retry-all-errors -o shared "$(aws s3 presign "s3://$SOS_BUCKET/dir/sub/a+b")"
grep -qx two shared
aws s3api put-object --bucket "$SOS_BUCKET" --key lock --body up/empty --if-none-match '*' > /dev/null
if aws s3api put-object --bucket "$SOS_BUCKET" --key lock --body up/empty --if-none-match '*' 2> err; then exit 1; fi
grep -q PreconditionFailed err
aws s3api put-bucket-versioning --bucket "$SOS_BUCKET" --versioning-configuration Status=Enabled
aws s3api put-object-tagging --bucket "$SOS_BUCKET" --key moved --tagging 'TagSet=[{Key=a,Value=b}]'
aws s3api get-object-attributes --bucket "$SOS_BUCKET" --key moved --object-attributes ETag ObjectParts | grep -q ETag
aws s3api put-bucket-versioning --bucket "$SOS_BUCKET" --versioning-configuration Status=Suspended
aws s3 rm "s3://$SOS_BUCKET" --recursive --quiet
test -z "$(aws s3 ls "s3://$SOS_BUCKET/")"
aws --version 2>&1 | cut -d' ' -f1 | cut -d/ -f2
