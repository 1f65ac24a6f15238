//! The logs of all pods of a namespace, kept after the pods are gone.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, LogParams},
};

/// How often new pods are listed, and interrupted log streams resumed.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// The logs by pod.
#[derive(Clone, Debug, Default)]
pub struct PodLogs(Arc<Mutex<BTreeMap<String, PodLog>>>);

/// The log of one pod.
#[derive(Clone, Debug, Default)]
pub struct PodLog {
    /// The label `app.kubernetes.io/name`.
    pub app: String,
    /// The label `app.kubernetes.io/instance`.
    pub instance: String,
    /// Its lines.
    pub lines: Vec<String>,
    seen: HashSet<String>,
}

impl PodLogs {
    /// Returns the lines of the logs that `matches` selects.
    pub fn select(&self, matches: impl Fn(&PodLog) -> bool) -> BTreeMap<String, Vec<String>> {
        self.lock()
            .iter()
            .filter(|(_, log)| matches(log))
            .map(|(name, log)| (name.clone(), log.lines.clone()))
            .collect()
    }

    /// Follows the log of every pod that appears, until the task is aborted.
    pub async fn follow(self, api: Api<Pod>) {
        loop {
            // A list that fails is requested again.
            let pods = api.list(&ListParams::default()).await.map(|list| list.items);
            for pod in pods.unwrap_or_default() {
                let name = pod.name_any();
                let label = |key: &str| pod.labels().get(key).cloned().unwrap_or_default();
                let log = PodLog {
                    app: label("app.kubernetes.io/name"),
                    instance: label("app.kubernetes.io/instance"),
                    ..PodLog::default()
                };
                let mut logs = self.lock();
                if !logs.contains_key(&name) {
                    logs.insert(name.clone(), log);
                    tokio::spawn(self.clone().follow_pod(api.clone(), name));
                }
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn follow_pod(self, api: Api<Pod>, pod: String) {
        let params = LogParams { follow: true, ..LogParams::default() };
        loop {
            if let Ok(stream) = api.log_stream(&pod, &params).await {
                let mut lines = stream.lines().into_stream().boxed();
                while let Ok(Some(line)) = lines.try_next().await {
                    // An interrupted stream starts from the beginning. Lines have their time, so
                    // equal lines are the same.
                    if let Some(log) = self.lock().get_mut(&pod)
                        && log.seen.insert(line.clone())
                    {
                        log.lines.push(line);
                    }
                }
            }
            match api.get_opt(&pod).await {
                Ok(None) => return,
                Ok(Some(_)) | Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, PodLog>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
