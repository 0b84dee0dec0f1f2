//! Basic authentication against bcrypt hashes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};

/// Passwords that were right are known again without bcrypt, which takes a tenth of a second by
/// design; more of them than that start over.
const MAX_KNOWN: usize = 64;
/// A hash of no password, so that a user who does not exist takes as long as one who does.
const NOBODY: &str = "$2b$10$OecXvrYbkjVmsT9NJPIrMeGCY2XdVX8KRc6GuIQ9AB71HBULv5Khi";

/// Who may read.
#[derive(Debug, Default)]
pub struct Auth {
    users: HashMap<String, String>,
    known: Mutex<Vec<[u8; 32]>>,
}

impl Auth {
    /// bcrypt hashes by user; without any, everybody may.
    pub fn new(users: HashMap<String, String>) -> Result<Self, String> {
        for (user, hash) in &users {
            if hash.parse::<bcrypt::HashParts>().is_err() {
                return Err(format!(
                    "the password of user {user:?} is no bcrypt hash (htpasswd -nBC 10 \"\")"
                ));
            }
        }
        Ok(Self { users, known: Mutex::default() })
    }

    pub fn is_open(&self) -> bool {
        self.users.is_empty()
    }

    /// Whether the value of an `Authorization` header is of one who may. Takes its time.
    pub fn allows(&self, authorization: Option<&[u8]>) -> bool {
        if self.users.is_empty() {
            return true;
        }
        let Some((user, password)) = authorization.and_then(parse) else { return false };
        let hash = self.users.get(&user);
        let known = digest(&SHA256, authorization.unwrap_or_default());
        let known: [u8; 32] = known.as_ref().try_into().unwrap_or_default();
        if hash.is_some() && self.lock().contains(&known) {
            return true;
        }
        let right = bcrypt::verify(password, hash.map_or(NOBODY, String::as_str)).unwrap_or(false);
        let allowed = right && hash.is_some();
        if allowed {
            let mut all = self.lock();
            if all.len() >= MAX_KNOWN {
                all.clear();
            }
            all.push(known);
        }
        allowed
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<[u8; 32]>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(value: &[u8]) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let text = STANDARD.decode(encoded.trim_ascii()).ok()?;
    let colon = text.iter().position(|&b| b == b':')?;
    Some((String::from_utf8(text[..colon].to_vec()).ok()?, text[colon + 1..].to_vec()))
}
