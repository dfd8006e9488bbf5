//! What the proxy's own answers have to look like (Matrix client-server API, "Standard error response" and CORS).

use crate::message::{Framing, Message};

/// Fails the test unless `response` is a whole Matrix error of this status and code that a web client can read.
pub fn assert_error(response: &Message, status: u16, errcode: &str) {
    assert_eq!(response.status(), status, "{:?} {}", response.head.start_line, response.text());
    assert_json_error(response, errcode);
    assert_cors(response);
}

/// Fails the test unless `response` carries a Matrix error of this code, whatever its status.
pub fn assert_json_error(response: &Message, errcode: &str) {
    assert!(response.is_complete(), "cut short: {response:?}");
    assert!(matches!(response.framing, Framing::Length(_)), "not length-delimited: {:?}", response.head);
    let media_type = response.head.value("content-type").unwrap_or_default();
    assert!(media_type.starts_with("application/json"), "not JSON: {media_type:?}");
    let body: serde_json::Value = serde_json::from_slice(&response.body).expect("the body is JSON");
    assert_eq!(body["errcode"], errcode, "{body}");
    assert!(body["error"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
}

/// Fails the test unless web clients of any origin may read `response`: exactly one allowed origin, and the methods and
/// fields that the specification lists.
pub fn assert_cors(response: &Message) {
    assert_eq!(response.head.values("access-control-allow-origin"), ["*"]);
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
        assert!(response.head.lists("access-control-allow-methods", method), "{:?}", response.head);
    }
    for field in ["X-Requested-With", "Content-Type", "Authorization"] {
        assert!(response.head.lists("access-control-allow-headers", field), "{:?}", response.head);
    }
}
