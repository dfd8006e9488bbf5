//! Standard error responses and the field lines that let a browser read them (Client-Server API, "Standard
//! error response" and "Web Browser Clients").

use serde_json::json;

/// An `errcode` of the Matrix specification that a proxy has a use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// Access is closed to this peer.
    Forbidden,
    /// Too many requests or connections; come back later.
    LimitExceeded,
    /// The endpoint exists, what it was asked for does not.
    NotFound,
    /// The request or a part of it is too large.
    TooLarge,
    /// Anything else: the HTTP status says what is wrong.
    Unknown,
    /// The server does not know this endpoint or this method of it.
    Unrecognized,
}

impl ErrorCode {
    /// As it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorCode::Forbidden => "M_FORBIDDEN",
            ErrorCode::LimitExceeded => "M_LIMIT_EXCEEDED",
            ErrorCode::NotFound => "M_NOT_FOUND",
            ErrorCode::TooLarge => "M_TOO_LARGE",
            ErrorCode::Unknown => "M_UNKNOWN",
            ErrorCode::Unrecognized => "M_UNRECOGNIZED",
        }
    }
}

/// The JSON object of a standard error response.
pub fn body(code: ErrorCode, message: &str) -> String {
    json!({ "errcode": code.as_str(), "error": message }).to_string()
}

/// The JSON object of a refusal after too many requests: `M_LIMIT_EXCEEDED`, and when another is allowed, in milliseconds.
pub fn limit_body(message: &str, retry_after_ms: u64) -> String {
    json!({
        "errcode": ErrorCode::LimitExceeded.as_str(),
        "error": message,
        "retry_after_ms": retry_after_ms,
    })
    .to_string()
}

/// The content type of every answer that the proxy makes itself.
pub const JSON_FIELD_LINE: &str = "Content-Type: application/json\r\n";

/// What lets a web client read an answer of another origin (Client-Server API, "Web Browser Clients").
///
/// `Date` is not in the specification's list; Synapse allows it, and clients may have come to rely on that.
pub const CORS_FIELD_LINES: &str = "Access-Control-Allow-Origin: *\r\n\
     Access-Control-Allow-Methods: GET, POST, PUT, DELETE, OPTIONS\r\n\
     Access-Control-Allow-Headers: X-Requested-With, Content-Type, Authorization, Date\r\n";

/// What lets a web client of another origin see when to come again.
pub const RETRY_CORS_FIELD_LINE: &str = "Access-Control-Expose-Headers: Retry-After\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_one_json_object_with_code_and_message() {
        let body = body(ErrorCode::TooLarge, "More than 50 MiB \"here\".");
        assert_eq!(body, r#"{"errcode":"M_TOO_LARGE","error":"More than 50 MiB \"here\"."}"#);
    }

    #[test]
    fn field_lines_are_whole_lines_and_name_one_origin() {
        let lines: Vec<_> = CORS_FIELD_LINES.split_inclusive("\r\n").collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.ends_with("\r\n") && line.contains(": ")));
        assert_eq!(CORS_FIELD_LINES.matches("Access-Control-Allow-Origin").count(), 1);
        assert!(JSON_FIELD_LINE.ends_with("\r\n"));
    }
}
