//! Error codes of the REST API.

use axum::http::StatusCode;

/// Error code of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorCode {
    InvalidParameter,
    InvalidJson,
    NoOutput,
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    NoSuchCast,
    NoSuchEvent,
    NoSuchFile,
    NoSuchPush,
    NoSuchApplication,
    NoSuchKey,
    NoSuchToken,
    NoSuchNode,
    MethodNotAllowed,
    Timeout,
    CastEnded,
    NotRunning,
    AlreadyExists,
    IdempotencyKeyReused,
    PushExists,
    TooManyPushes,
    TooManyApplications,
    ApplicationRemoved,
    DefinedInConfiguration,
    HasCasts,
    NoReceiver,
    NoStorage,
    RoomsDisabled,
    TooLarge,
    RangeNotSatisfiable,
    UnsupportedMediaType,
    TooManyRequests,
    TooManyCasts,
    QueueFull,
    HistoryQuotaExceeded,
    TooManyStreams,
    TooManyChecks,
    Internal,
    TooManyCommands,
    Unavailable,
    NoWorker,
    SnapshotTimeout,
}

impl ErrorCode {
    /// The code as clients read it, and the HTTP status.
    fn details(self) -> (&'static str, StatusCode) {
        use StatusCode as S;
        match self {
            Self::InvalidParameter => ("invalid-parameter", S::BAD_REQUEST),
            Self::InvalidJson => ("invalid-json", S::BAD_REQUEST),
            Self::NoOutput => ("no-output", S::BAD_REQUEST),
            Self::BadRequest => ("bad-request", S::BAD_REQUEST),
            Self::Unauthorized => ("unauthorized", S::UNAUTHORIZED),
            Self::Forbidden => ("forbidden", S::FORBIDDEN),
            Self::NotFound => ("not-found", S::NOT_FOUND),
            Self::NoSuchCast => ("no-such-cast", S::NOT_FOUND),
            Self::NoSuchEvent => ("no-such-event", S::NOT_FOUND),
            Self::NoSuchFile => ("no-such-file", S::NOT_FOUND),
            Self::NoSuchPush => ("no-such-push", S::NOT_FOUND),
            Self::NoSuchApplication => ("no-such-application", S::NOT_FOUND),
            Self::NoSuchKey => ("no-such-key", S::NOT_FOUND),
            Self::NoSuchToken => ("no-such-token", S::NOT_FOUND),
            Self::NoSuchNode => ("no-such-node", S::NOT_FOUND),
            Self::MethodNotAllowed => ("method-not-allowed", S::METHOD_NOT_ALLOWED),
            Self::Timeout => ("timeout", S::REQUEST_TIMEOUT),
            Self::CastEnded => ("cast-ended", S::CONFLICT),
            Self::NotRunning => ("not-running", S::CONFLICT),
            Self::AlreadyExists => ("already-exists", S::CONFLICT),
            Self::IdempotencyKeyReused => ("idempotency-key-reused", S::CONFLICT),
            Self::PushExists => ("push-exists", S::CONFLICT),
            Self::TooManyPushes => ("too-many-pushes", S::CONFLICT),
            Self::TooManyApplications => ("too-many-applications", S::CONFLICT),
            Self::ApplicationRemoved => ("application-removed", S::CONFLICT),
            Self::DefinedInConfiguration => ("defined-in-configuration", S::CONFLICT),
            Self::HasCasts => ("has-casts", S::CONFLICT),
            Self::NoReceiver => ("no-receiver", S::CONFLICT),
            Self::NoStorage => ("no-storage", S::CONFLICT),
            Self::RoomsDisabled => ("rooms-disabled", S::CONFLICT),
            Self::TooLarge => ("too-large", S::PAYLOAD_TOO_LARGE),
            Self::RangeNotSatisfiable => ("range-not-satisfiable", S::RANGE_NOT_SATISFIABLE),
            Self::UnsupportedMediaType => ("unsupported-media-type", S::UNSUPPORTED_MEDIA_TYPE),
            Self::TooManyRequests => ("too-many-requests", S::TOO_MANY_REQUESTS),
            Self::TooManyCasts => ("too-many-casts", S::TOO_MANY_REQUESTS),
            Self::QueueFull => ("queue-full", S::TOO_MANY_REQUESTS),
            Self::HistoryQuotaExceeded => ("history-quota-exceeded", S::TOO_MANY_REQUESTS),
            Self::TooManyStreams => ("too-many-streams", S::TOO_MANY_REQUESTS),
            Self::TooManyChecks => ("too-many-checks", S::TOO_MANY_REQUESTS),
            Self::Internal => ("internal", S::INTERNAL_SERVER_ERROR),
            Self::TooManyCommands => ("too-many-commands", S::SERVICE_UNAVAILABLE),
            Self::Unavailable => ("unavailable", S::SERVICE_UNAVAILABLE),
            Self::NoWorker => ("no-worker", S::SERVICE_UNAVAILABLE),
            Self::SnapshotTimeout => ("snapshot-timeout", S::GATEWAY_TIMEOUT),
        }
    }

    /// The code as clients read it.
    pub(super) fn as_str(self) -> &'static str {
        self.details().0
    }

    /// The HTTP status of answers with this code.
    pub(super) fn status(self) -> StatusCode {
        self.details().1
    }
}
