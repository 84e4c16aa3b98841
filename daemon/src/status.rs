//! HTTP status codes: the only place that knows them.

use http::StatusCode;
use wire::Code;

use crate::v2::fault::Kind;

/// The status that an answer with this code has.
pub fn of(code: Code) -> StatusCode {
    match code {
        Code::Usage | Code::DigestInvalid | Code::DigestUnsupported | Code::NameInvalid => {
            StatusCode::BAD_REQUEST
        }
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Timeout => StatusCode::REQUEST_TIMEOUT,
        Code::Ambiguous | Code::SourceChanged | Code::Needed | Code::TagTaken => {
            StatusCode::CONFLICT
        }
        Code::ManifestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::DescriptorRefused => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::LocalIo
        | Code::Mismatch
        | Code::WrongSize
        | Code::Missing
        | Code::MediaType
        | Code::BothKinds
        | Code::ManifestInvalid
        | Code::TrailingBytes
        | Code::TooDeep
        | Code::Cycle
        | Code::TooManyEntries
        | Code::Symlink
        | Code::NotRegular
        | Code::LayoutInvalid
        | Code::ArchiveLink
        | Code::ArchiveDuplicate
        | Code::ArchiveName
        | Code::ArchiveTruncated
        | Code::ArchiveInvalid => StatusCode::UNPROCESSABLE_ENTITY,
        Code::Internal | Code::Corrupt | Code::StoreIo | Code::Config => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        Code::Unreachable => StatusCode::BAD_GATEWAY,
        Code::Busy | Code::Locked => StatusCode::SERVICE_UNAVAILABLE,
        Code::DiskFull | Code::Quota => StatusCode::INSUFFICIENT_STORAGE,
    }
}

/// The status of an answer of the front door that tells of a fault.
pub fn of_fault(kind: Kind) -> StatusCode {
    match kind {
        Kind::NameInvalid
        | Kind::DigestInvalid
        | Kind::SizeInvalid
        | Kind::UploadInvalid
        | Kind::ManifestInvalid
        | Kind::Unsupported => StatusCode::BAD_REQUEST,
        Kind::Denied => StatusCode::FORBIDDEN,
        Kind::Unauthorized => StatusCode::UNAUTHORIZED,
        Kind::NameUnknown
        | Kind::BlobUnknown
        | Kind::ManifestUnknown
        | Kind::UploadUnknown
        | Kind::ManifestBlobUnknown
        | Kind::NoSuchPath => StatusCode::NOT_FOUND,
        Kind::Needed | Kind::NoSuchMethod => StatusCode::METHOD_NOT_ALLOWED,
        Kind::TooSlow => StatusCode::REQUEST_TIMEOUT,
        Kind::TagTaken => StatusCode::CONFLICT,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::TooManyTags => StatusCode::URI_TOO_LONG,
        Kind::OutOfOrder | Kind::OutOfReach => StatusCode::RANGE_NOT_SATISFIABLE,
        Kind::TooMany => StatusCode::TOO_MANY_REQUESTS,
        Kind::Broken => StatusCode::INTERNAL_SERVER_ERROR,
        Kind::Full => StatusCode::INSUFFICIENT_STORAGE,
    }
}

/// The status of an answer that carries what was asked for.
pub const DONE: StatusCode = StatusCode::OK;
/// The status of an answer to a request that made something.
pub const MADE: StatusCode = StatusCode::CREATED;
/// The status of an answer without a body.
pub const NOTHING: StatusCode = StatusCode::NO_CONTENT;
/// The status of an answer to a request that was taken on, or has begun something.
pub const ACCEPTED: StatusCode = StatusCode::ACCEPTED;
/// The status of an answer that carries a part of what is there.
pub const PART: StatusCode = StatusCode::PARTIAL_CONTENT;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_an_error_and_blames_the_right_side() {
        use Code::*;
        let ours = [Internal, Unreachable, Busy, Corrupt, StoreIo, DiskFull, Quota, Locked, Config];
        for code in Code::ALL {
            let status = of(*code);
            assert_eq!(status.is_server_error(), ours.contains(code), "{code:?} is {status}");
            assert_eq!(status.is_client_error(), !ours.contains(code), "{code:?} is {status}");
        }
    }
}
