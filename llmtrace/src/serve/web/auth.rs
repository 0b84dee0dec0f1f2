//! Basic authentication against bcrypt hashes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use tokio::sync::Semaphore;

/// Passwords that were right are known again without bcrypt, which takes a tenth of a second by
/// design; more of them than that start over.
const MAX_KNOWN: usize = 64;
/// A hash of no password, so that a user who does not exist takes as long as one who does.
const NOBODY: &str = "$2b$10$OecXvrYbkjVmsT9NJPIrMeGCY2XdVX8KRc6GuIQ9AB71HBULv5Khi";

/// Who may read.
#[derive(Debug)]
pub struct Auth {
    users: HashMap<String, String>,
    known: Mutex<Vec<[u8; 32]>>,
    /// One password is tried at a time: who guesses has one processor at the most.
    pub(super) turn: Arc<Semaphore>,
}

impl Default for Auth {
    /// Everybody may.
    fn default() -> Self {
        Self::of(HashMap::new())
    }
}

/// What an `Authorization` header says.
struct Claim {
    user: String,
    password: Vec<u8>,
    digest: [u8; 32],
}

impl Auth {
    fn of(users: HashMap<String, String>) -> Self {
        Self { users, known: Mutex::default(), turn: Arc::new(Semaphore::new(1)) }
    }

    /// bcrypt hashes by user; without any, everybody may.
    pub fn new(users: HashMap<String, String>) -> Result<Self, String> {
        for (user, hash) in &users {
            if hash.parse::<bcrypt::HashParts>().is_err() {
                return Err(format!(
                    "the password of user {user:?} is no bcrypt hash (htpasswd -nBC 10 \"\")"
                ));
            }
        }
        Ok(Self::of(users))
    }

    pub fn is_open(&self) -> bool {
        self.users.is_empty()
    }

    /// Whether the value of an `Authorization` header is of one who may. Takes its time, the first
    /// time.
    pub async fn allows(self: Arc<Self>, authorization: Option<&[u8]>) -> bool {
        if self.is_open() {
            return true;
        }
        let Some(claim) = authorization.and_then(Claim::parse) else { return false };
        if self.users.contains_key(&claim.user) && self.lock().contains(&claim.digest) {
            return true;
        }
        let Ok(turn) = self.turn.clone().acquire_owned().await else { return false };
        let tried = tokio::task::spawn_blocking(move || {
            // To the end of it, even if nobody waits any more.
            let _turn = turn;
            self.try_password(&claim)
        });
        tried.await.unwrap_or(false)
    }

    fn try_password(&self, claim: &Claim) -> bool {
        let hash = self.users.get(&claim.user);
        let right = bcrypt::verify(&claim.password, hash.map_or(NOBODY, String::as_str));
        let allowed = right.unwrap_or(false) && hash.is_some();
        if allowed {
            let mut all = self.lock();
            if all.len() >= MAX_KNOWN {
                all.clear();
            }
            all.push(claim.digest);
        }
        allowed
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<[u8; 32]>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    fn parse(value: &[u8]) -> Option<Self> {
        let (scheme, encoded) = value.split_at_checked(6)?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return None;
        }
        let text = STANDARD.decode(encoded.trim_ascii()).ok()?;
        let colon = text.iter().position(|&b| b == b':')?;
        let (user, password) = (text[..colon].to_vec(), text[colon + 1..].to_vec());
        let digest = digest(&SHA256, value).as_ref().try_into().ok()?;
        Some(Self { user: String::from_utf8(user).ok()?, password, digest })
    }
}
