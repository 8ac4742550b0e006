"""The truth about configurations that do not exist: what GET on a sub-resource answers. Pure.

Source: s3.md 1.4. The caller has found the bucket (and, with a key, the object) first.
"""

from __future__ import annotations

from typing import Final

from sos.s3.errors import (
    InvalidRequest,
    NoSuchBucketPolicy,
    NoSuchConfiguration,
    NoSuchLifecycleConfiguration,
    NoSuchPublicAccessBlockConfiguration,
    NoSuchWebsiteConfiguration,
    ObjectLockConfigurationNotFoundError,
    OwnershipControlsNotFoundError,
    ReplicationConfigurationNotFoundError,
    S3Error,
    ServerSideEncryptionConfigurationNotFoundError,
)
from sos.s3.operations import GetSubresource
from sos.s3.xml import document, render_owner

_EMPTY_ROOTS: Final = {
    "accelerate": "AccelerateConfiguration",
    "logging": "BucketLoggingStatus",
    "notification": "NotificationConfiguration",
}
_EMPTY_LISTS: Final = {
    "analytics": "ListBucketAnalyticsConfigurationResult",
    "inventory": "ListInventoryConfigurationsResult",
    "metrics": "ListMetricsConfigurationsResult",
    "intelligent-tiering": "ListBucketIntelligentTieringConfigurationsOutput",
}
_NOT_FOUND: Final[dict[str, type[S3Error]]] = {
    "encryption": ServerSideEncryptionConfigurationNotFoundError,
    "lifecycle": NoSuchLifecycleConfiguration,
    "object-lock": ObjectLockConfigurationNotFoundError,
    "ownershipControls": OwnershipControlsNotFoundError,
    "policy": NoSuchBucketPolicy,
    "policyStatus": NoSuchBucketPolicy,
    "publicAccessBlock": NoSuchPublicAccessBlockConfiguration,
    "replication": ReplicationConfigurationNotFoundError,
    "website": NoSuchWebsiteConfiguration,
}
_SCHEMA_INSTANCE: Final = "http://www.w3.org/2001/XMLSchema-instance"


def render_subresource(operation: GetSubresource, *, owner_id: str) -> bytes:
    """The document of a 200. Raises: the 404 of the configuration, InvalidRequest (locks of an object)."""
    selector = operation.selector
    if selector == "acl":
        return _render_acl(owner_id)
    if operation.key:
        assert selector in ("retention", "legal-hold"), selector
        raise InvalidRequest(message="Bucket is missing Object Lock Configuration")
    if selector in _EMPTY_ROOTS:
        return document(_EMPTY_ROOTS[selector])
    if selector == "requestPayment":
        return document("RequestPaymentConfiguration", "<Payer>BucketOwner</Payer>")
    if selector in _EMPTY_LISTS:
        if operation.configuration_id is not None:
            raise NoSuchConfiguration(operation.bucket)
        return document(_EMPTY_LISTS[selector], "<IsTruncated>false</IsTruncated>")
    raise _NOT_FOUND[selector](operation.bucket)


def _render_acl(owner_id: str) -> bytes:
    """The owner has full control: what BucketOwnerEnforced means (S3 API: GetBucketAcl)."""
    grantee = f'<Grantee xmlns:xsi="{_SCHEMA_INSTANCE}" xsi:type="CanonicalUser"><ID>{owner_id}</ID></Grantee>'
    return document(
        "AccessControlPolicy",
        render_owner(owner_id),
        f"<AccessControlList><Grant>{grantee}<Permission>FULL_CONTROL</Permission></Grant></AccessControlList>",
    )
