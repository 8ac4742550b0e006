"""What `demo` prints for the next five minutes of a person's life: endpoints, keys, lines to paste."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from sos.cli.presign import presign
from sos.config import Address, Config


def show_endpoints(
    console: Console, configs: Sequence[Config], *, access_key: str, secret_key: str
) -> None:
    """Each block can be pasted as it is: no indentation, which Python's prompt refuses."""
    config = configs[0]
    region, first = config.s3.region, config.s3.listen
    url = f"http://{first}"

    def say(*lines: str) -> None:
        for line in lines:
            console.print(line, markup=False)

    console.print("\n[bold]S3 endpoints[/bold] (any of them; all answer the same)")
    say(*(f"  http://{c.s3.listen}   status: sos status --admin {c.admin.listen}" for c in configs))
    console.print("\n[bold]Keys[/bold]")
    say(f"  access key {access_key}", f"  secret key {secret_key}")
    console.print("\n[bold]aws-cli[/bold]")
    say(
        f"export AWS_ACCESS_KEY_ID={access_key} AWS_SECRET_ACCESS_KEY={secret_key}"
        f" AWS_DEFAULT_REGION={region} AWS_ENDPOINT_URL={url}",
        "aws s3 mb s3://demo",
        "echo hello | aws s3 cp - s3://demo/hello.txt && aws s3 cp s3://demo/hello.txt -",
    )
    console.print("\n[bold]boto3[/bold]")
    # Without s3v4, boto3 presigns with the old signature, which nothing here answers to.
    say(
        "import boto3, botocore.config",
        f"s3 = boto3.client('s3', endpoint_url='{url}', region_name='{region}',"
        f" aws_access_key_id='{access_key}', aws_secret_access_key='{secret_key}',"
        " config=botocore.config.Config(signature_version='s3v4'))",
        "s3.create_bucket(Bucket='demo2')",
        "s3.put_object(Bucket='demo2', Key='hello.txt', Body=b'hello')",
        "print(s3.get_object(Bucket='demo2', Key='hello.txt')['Body'].read())",
        "print(s3.generate_presigned_url('get_object',"
        " Params={'Bucket': 'demo2', 'Key': 'hello.txt'}))",
    )
    console.print("\n[bold]curl[/bold] (presigned, good for a day)")
    keys = _Keys(access_key, secret_key, region)
    say(
        f"curl -X PUT '{keys.presigned('PUT', first, '/demo3')}'",
        f"curl -X PUT -d 'hello, world' '{keys.presigned('PUT', first, '/demo3/hello.txt')}'",
        f"curl '{keys.presigned('GET', first, '/demo3/hello.txt')}'",
    )
    console.print("\nCtrl-C stops all.")


class _Keys:
    def __init__(self, access_key: str, secret_key: str, region: str) -> None:
        self._access_key = access_key
        self._secret_key = secret_key
        self._region = region

    def presigned(self, method: str, address: Address, path: str) -> str:
        return presign(
            method,
            address,
            path,
            access_key=self._access_key,
            secret_key=self._secret_key,
            region=self._region,
        )
