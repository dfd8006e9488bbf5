//! Signatures of the federation (Matrix appendices, "Signing JSON"). Pure.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use data_encoding::BASE64_NOPAD;
use serde_json::{Map, Value, json};

/// Whether a key document is signed by every key that it names; the error says which is not.
pub(super) fn check_key_document(document: &Value, server_name: &str) -> Result<usize, String> {
    let object = document.as_object().ok_or("it is no JSON object")?;
    let keys = object.get("verify_keys").and_then(Value::as_object).ok_or("it has no verify_keys")?;
    let mut signed = object.clone();
    signed.remove("signatures");
    signed.remove("unsigned");
    let message = canonical(&Value::Object(signed));
    for (id, key) in keys {
        let public = key.get("key").and_then(Value::as_str).and_then(decode);
        let public = public.ok_or_else(|| format!("its key {id} cannot be read"))?;
        let signature = document["signatures"][server_name][id].as_str().and_then(decode);
        let signature = signature.ok_or_else(|| format!("it is not signed by its key {id}"))?;
        UnparsedPublicKey::new(&ED25519, public)
            .verify(message.as_bytes(), &signature)
            .map_err(|_| format!("its signature by its key {id} is wrong: something changed the document"))?;
    }
    if keys.is_empty() { Err("it names no key".to_owned()) } else { Ok(keys.len()) }
}

/// A homeserver's signing key, from Synapse's file: `ed25519 VERSION SEED`.
#[derive(Debug)]
pub(super) struct SigningKey {
    id: String,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// Reads the first key of such a file.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut words =
            text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().split_whitespace();
        let (Some("ed25519"), Some(version), Some(seed)) = (words.next(), words.next(), words.next()) else {
            return Err("it is no signing key of a homeserver (`ed25519 VERSION SEED`)".to_owned());
        };
        let pair = decode(seed).and_then(|seed| Ed25519KeyPair::from_seed_unchecked(&seed).ok());
        let pair = pair.ok_or("its seed is not one of ed25519")?;
        Ok(Self { id: format!("ed25519:{version}"), pair })
    }

    /// The `Authorization` of a request that a server makes of itself (Server-Server API, "Request Authentication").
    pub(super) fn authorization(&self, server_name: &str, method: &str, target: &str) -> String {
        let request =
            json!({ "destination": server_name, "method": method, "origin": server_name, "uri": target });
        let signature = BASE64_NOPAD.encode(self.pair.sign(canonical(&request).as_bytes()).as_ref());
        format!(
            r#"X-Matrix origin="{server_name}",destination="{server_name}",key="{}",sig="{signature}""#,
            self.id
        )
    }
}

/// Unpadded base64, as Matrix has it. Padding is tolerated, and so are trailing bits: the specification's own example has some.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut lenient = BASE64_NOPAD.specification();
    lenient.check_trailing_bits = false;
    lenient.encoding().ok()?.decode(text.trim_end_matches('=').as_bytes()).ok()
}

/// Canonical JSON: keys sorted by code point, no insignificant space.
fn canonical(value: &Value) -> String {
    sorted(value).to_string()
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let mut entries: Vec<_> = object.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            Value::Object(
                entries.into_iter().map(|(key, value)| (key.clone(), sorted(value))).collect::<Map<_, _>>(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by Synapse 1.163 with a throwaway key.
    fn document() -> Value {
        json!({
            "old_verify_keys": {}, "server_name": "doctor.test",
            "signatures": { "doctor.test": { "ed25519:a_test":
                "g0xXgnn3SCaYavWtP4lhYfKvTbtN1vzaZ+aq+BAfAYCWqO/BkrBzIndVfmm5x+Kld+7FdZgMxf5EsPSf/D6/CA" } },
            "valid_until_ts": 1_795_557_268_412_u64,
            "verify_keys": { "ed25519:a_test": { "key": "J3oUhIla2sq23CcfAzV9zvj9vgp6asKZqJqQrAXcK9s" } }
        })
    }

    #[test]
    fn a_document_that_a_homeserver_signed_passes_and_a_changed_one_does_not() {
        assert_eq!(check_key_document(&document(), "doctor.test"), Ok(1));
        let mut changed = document();
        changed["valid_until_ts"] = json!(1);
        assert!(check_key_document(&changed, "doctor.test").unwrap_err().contains("is wrong"));
        assert!(check_key_document(&document(), "other.test").unwrap_err().contains("not signed"));
        assert!(check_key_document(&json!({ "verify_keys": {} }), "doctor.test").is_err());
    }

    /// The example of the appendices, "Cryptographic Test Vectors".
    #[test]
    fn requests_are_signed_as_the_specification_does() {
        let key = SigningKey::parse("ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1\n").unwrap();
        let signature = key.pair.sign(canonical(&json!({ "two": "Two", "one": 1 })).as_bytes());
        assert_eq!(
            BASE64_NOPAD.encode(signature.as_ref()),
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"
        );
        assert!(
            key.authorization("a", "GET", "/x")
                .starts_with(r#"X-Matrix origin="a",destination="a",key="ed25519:1""#)
        );
        assert!(SigningKey::parse("rsa 1 x").is_err() && SigningKey::parse("").is_err());
    }
}
