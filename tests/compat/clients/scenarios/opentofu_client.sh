# OpenTofu: state in the store with its lock file; a second apply at the same time is kept out.
set -Eeuo pipefail
trap 'echo "line $LINENO: $BASH_COMMAND" >&2' ERR
cd "$SOS_WORK"
curl -sf --retry 9 --retry-all-errors -o /dev/null -X PUT -d '' -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' --aws-sigv4 aws:amz:us-east-1:s3 --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" "$SOS_ENDPOINT/$SOS_BUCKET"
unset AWS_ENDPOINT_URL
cat > main.tf <<TF
terraform {
  backend "s3" {
    bucket                      = "$SOS_BUCKET"
    key                         = "state/terraform.tfstate"
    region                      = "us-east-1"
    endpoints                   = { s3 = "$SOS_ENDPOINT" }
    use_path_style              = true
    use_lockfile                = true
    skip_credentials_validation = true
    skip_metadata_api_check     = true
    skip_requesting_account_id  = true
    skip_region_validation      = true
  }
}
variable "wait" { default = "true" }
resource "terraform_data" "one" {
  triggers_replace = [var.wait]
  provisioner "local-exec" { command = var.wait }
}
TF
tofu init -no-color > init.log 2>&1 || { tail -3 init.log >&2; exit 1; }
tofu apply -no-color -auto-approve > apply.log 2>&1 || { tail -3 apply.log >&2; exit 1; }
mkfifo gate
tofu apply -no-color -auto-approve -var "wait=cat $PWD/gate" > first.log 2>&1 &
first=$!
until grep -q "Provisioning with" first.log; do read -rt 0.1 <> <(:) || :; done
if tofu apply -no-color -auto-approve -var wait=false > second.log 2>&1; then echo "not so: a second apply is kept out" >&2; exit 1; fi
grep -q "Error acquiring the state lock" second.log
echo go > gate
wait "$first"
tofu plan -no-color -detailed-exitcode -var "wait=cat $PWD/gate" > plan.log
tofu state pull | grep -q '"terraform_data"'
tofu destroy -no-color -auto-approve -var wait=true > destroy.log 2>&1
tofu version | sed -n '1s/OpenTofu v//p'
