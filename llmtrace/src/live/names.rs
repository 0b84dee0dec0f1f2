//! Which series there are. Names come from the wire: they are limited in length, in characters and
//! in number.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::second::MAX_SECONDS;
use crate::llm::{MAX_LABEL, Role};

/// Most series of role, server and model at a time; more are one, [`OTHER`], for each role.
pub const MAX_SERIES: usize = 1_024;
/// Most models that are known at a time.
pub const MAX_MODELS: usize = 256;
/// Longest name, in bytes: that of a server.
const MAX_NAME: usize = MAX_LABEL;
/// What has no series of its own.
pub const OTHER: &str = "other";

/// One series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Key {
    #[serde(serialize_with = "role")]
    pub role: Role,
    pub server: Arc<str>,
    /// Empty if not known.
    pub model: Arc<str>,
}

/// As the `role` label has it.
pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Server => "server",
        Role::Client => "client",
    }
}

pub(super) fn role<S: Serializer>(role: &Role, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(role_name(*role))
}

/// A name without control characters, at most [`MAX_NAME`] bytes long.
pub(super) fn clean(name: &str) -> Arc<str> {
    let short = &name[..name.floor_char_boundary(MAX_NAME)];
    if !short.contains(char::is_control) {
        return short.into();
    }
    short.replace(char::is_control, "?").into()
}

/// The series that were in use in the last ten minutes.
#[derive(Debug, Default)]
pub(super) struct Names {
    models: HashSet<Arc<str>>,
    /// With the second of their last use.
    keys: HashMap<Key, (Arc<Key>, u64)>,
}

impl Names {
    /// The series, which is now in use. Anybody can ask for any model; only one that a server has
    /// `accepted` becomes known.
    pub(super) fn key(
        &mut self,
        role: Role,
        server: &Arc<str>,
        model: Option<&str>,
        accepted: bool,
        now: u64,
    ) -> Arc<Key> {
        let model = self.model(model.unwrap_or_default(), accepted);
        let mut id = Key { role, server: server.clone(), model };
        if let Some((key, used)) = self.keys.get_mut(&id) {
            *used = now;
            return key.clone();
        }
        id.server = clean(server);
        if self.keys.len() >= MAX_SERIES && !self.keys.contains_key(&id) {
            (id.server, id.model) = (OTHER.into(), OTHER.into());
        }
        let (key, used) =
            self.keys.entry(id).or_insert_with_key(|key| (Arc::new(key.clone()), now));
        *used = now;
        key.clone()
    }

    fn model(&mut self, name: &str, accepted: bool) -> Arc<str> {
        if let Some(known) = self.models.get(name) {
            return known.clone();
        }
        if name.is_empty() {
            return "".into();
        }
        let name = clean(name);
        match self.models.get(&name) {
            Some(known) => known.clone(),
            None if !accepted => "".into(),
            None if self.models.len() >= MAX_MODELS => OTHER.into(),
            None => {
                self.models.insert(name.clone());
                name
            }
        }
    }

    /// Forgets what was not in use for as long as anything is kept.
    pub(super) fn expire(&mut self, now: u64) {
        self.keys.retain(|_, (_, used)| used.saturating_add(MAX_SECONDS) >= now);
        let used: HashSet<&Arc<str>> = self.keys.keys().map(|key| &key.model).collect();
        self.models.retain(|model| used.contains(model));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> (usize, usize) {
        (self.keys.len(), self.models.len())
    }
}
