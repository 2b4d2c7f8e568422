//! Error codes of Tencent's API.

/// Error code of an answer. The HTTP status of every answer is 200.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorCode {
    InvalidAuthorization,
    SecretIdNotFound,
    SignatureExpire,
    SignatureFailure,
    TokenFailure,
    NotAbility,
    SdkAppIdNotUnderAppId,
    TaskExist,
    TaskNotExist,
    InternalError,
    InvalidAction,
    InvalidParameter,
    BodyParamsError,
    OutOfRange,
    InvalidPublishCdnUrls,
    InvalidRecordId,
    InvalidSdkAppId,
    InvalidTaskId,
    UrlParamsError,
    InvalidParameterValue,
    InvalidRequest,
    MissingParameter,
    MissingAccessKey,
    MissingBucket,
    MissingCloudStorage,
    MissingRegion,
    MissingSdkAppId,
    MissingSecretKey,
    MissingStorageParams,
    MissingTaskId,
    MissingVendor,
    NoSuchVersion,
    RequestLimitExceeded,
    RequestSizeLimitExceeded,
    RequestRejection,
    UnsupportedProtocol,
    UnsupportedRegion,
}

impl ErrorCode {
    /// The vendor's code.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::InvalidAuthorization => "AuthFailure.InvalidAuthorization",
            Self::SecretIdNotFound => "AuthFailure.SecretIdNotFound",
            Self::SignatureExpire => "AuthFailure.SignatureExpire",
            Self::SignatureFailure => "AuthFailure.SignatureFailure",
            Self::TokenFailure => "AuthFailure.TokenFailure",
            Self::NotAbility => "FailedOperation.NotAbility",
            Self::SdkAppIdNotUnderAppId => "FailedOperation.SdkAppIdNotUnderAppId",
            Self::TaskExist => "FailedOperation.TaskExist",
            Self::TaskNotExist => "FailedOperation.TaskNotExist",
            Self::InternalError => "InternalError",
            Self::InvalidAction => "InvalidAction",
            Self::InvalidParameter => "InvalidParameter",
            Self::BodyParamsError => "InvalidParameter.BodyParamsError",
            Self::OutOfRange => "InvalidParameter.OutOfRange",
            Self::InvalidPublishCdnUrls => "InvalidParameter.PublishCdnUrls",
            Self::InvalidRecordId => "InvalidParameter.RecordId",
            Self::InvalidSdkAppId => "InvalidParameter.SdkAppId",
            Self::InvalidTaskId => "InvalidParameter.TaskId",
            Self::UrlParamsError => "InvalidParameter.UrlParamsError",
            Self::InvalidParameterValue => "InvalidParameterValue",
            Self::InvalidRequest => "InvalidRequest",
            Self::MissingParameter => "MissingParameter",
            Self::MissingAccessKey => "MissingParameter.AccessKey",
            Self::MissingBucket => "MissingParameter.Bucket",
            Self::MissingCloudStorage => "MissingParameter.CloudStorage",
            Self::MissingRegion => "MissingParameter.Region",
            Self::MissingSdkAppId => "MissingParameter.SdkAppId",
            Self::MissingSecretKey => "MissingParameter.SecretKey",
            Self::MissingStorageParams => "MissingParameter.StorageParams",
            Self::MissingTaskId => "MissingParameter.TaskId",
            Self::MissingVendor => "MissingParameter.Vendor",
            Self::NoSuchVersion => "NoSuchVersion",
            Self::RequestLimitExceeded => "RequestLimitExceeded",
            Self::RequestSizeLimitExceeded => "RequestSizeLimitExceeded",
            Self::RequestRejection => "ResourceInsufficient.RequestRejection",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
            Self::UnsupportedRegion => "UnsupportedRegion",
        }
    }

    /// Whether the code means that authentication failed.
    pub(super) fn is_auth_failure(self) -> bool {
        self.as_str().starts_with("AuthFailure.")
    }
}

/// Tests write codes as the vendor does.
#[cfg(test)]
impl PartialEq<&str> for ErrorCode {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}
