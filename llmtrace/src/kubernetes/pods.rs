//! The kubelet's list of pods.

use std::{collections::HashMap, sync::Arc};

use serde::Deserialize;

/// Most containers of one node that are kept: a kubelet has 110 pods unless told otherwise.
const MAX_CONTAINERS: usize = 16_384;

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    pub namespace: String,
    pub pod: String,
    pub container: String,
    pub image: String,
}

#[derive(Deserialize)]
struct List {
    /// Go writes `null` for none.
    #[serde(default)]
    items: Option<Vec<Pod>>,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    namespace: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    init_container_statuses: Option<Vec<ContainerStatus>>,
    container_statuses: Option<Vec<ContainerStatus>>,
    ephemeral_container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    #[serde(default)]
    image: String,
    /// `containerd://ID`; empty until it has started.
    #[serde(default, rename = "containerID")]
    container_id: String,
}

/// Containers by id.
pub(super) fn parse(json: &[u8]) -> Result<HashMap<String, Arc<Member>>, serde_json::Error> {
    let list: List = serde_json::from_slice(json)?;
    let mut members = HashMap::new();
    for Pod { metadata: Metadata { name: pod, namespace }, status } in
        list.items.into_iter().flatten()
    {
        let all = [
            status.init_container_statuses,
            status.container_statuses,
            status.ephemeral_container_statuses,
        ];
        for status in all.into_iter().flatten().flatten() {
            let Some((_, id)) = status.container_id.split_once("://") else { continue };
            if members.len() >= MAX_CONTAINERS {
                return Ok(members);
            }
            let member = Member {
                namespace: namespace.clone(),
                pod: pod.clone(),
                container: status.name,
                image: status.image,
            };
            members.insert(id.to_owned(), Arc::new(member));
        }
    }
    Ok(members)
}
