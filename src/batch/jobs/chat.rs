//! A chat as a job.

use serde::{Deserialize, Serialize};

use super::{Worker, WorkerReport};
use crate::batch::{ORIGIN, room};
use crate::client::LlmClient;
use crate::error::{Error, ErrorKind, Result};
use crate::types::{CacheControl, ChatBody, ChatCompletion, ChatRequest, Deadline, Deferrable, Priority, Tenant};

/// A chat request as a job's payload: its body, its [`Tenant`], its [`Priority`] and whether it is [`Deferrable`]. The tenant must travel along: it keeps
/// the answers of tenants apart in the workers' cache.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChatJob {
    body: ChatBody,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<Class>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deferrable: Option<bool>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Class {
    Low,
    Normal,
    High,
}

impl ChatJob {
    /// This request as a job.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] for a request that is none, and for one with a [`CacheControl`] or a [`Deadline`]:
    /// they hold for a call in this process and cannot travel.
    pub fn new(request: ChatRequest) -> Result<Self> {
        request.check()?;
        let extensions = &request.extensions;
        if extensions.get::<CacheControl>().is_some() || extensions.get::<Deadline>().is_some() {
            let text = "a request with a CacheControl or a Deadline cannot be a job: set them in the worker";
            return Err(Error::new(ErrorKind::InvalidRequest, ORIGIN, text));
        }
        let tenant = extensions.get::<Tenant>().map(|tenant| tenant.0.clone());
        let priority = extensions.get::<Priority>().map(|priority| match priority {
            Priority::Low => Class::Low,
            Priority::Normal => Class::Normal,
            Priority::High => Class::High,
        });
        let deferrable = extensions.get::<Deferrable>().map(|deferrable| *deferrable == Deferrable::Yes);
        Ok(Self { body: request.body().clone(), tenant, priority, deferrable })
    }

    /// The request, with [`Priority::Low`] when it stated none: nobody waits for it.
    pub fn into_request(self) -> ChatRequest {
        let priority = match self.priority {
            Some(Class::High) => Priority::High,
            Some(Class::Normal) => Priority::Normal,
            Some(Class::Low) | None => Priority::Low,
        };
        let request = ChatRequest::from(self.body).with(priority);
        let request = match self.deferrable {
            Some(true) => request.with(Deferrable::Yes),
            Some(false) => request.with(Deferrable::No),
            None => request,
        };
        match self.tenant {
            Some(tenant) => request.with(Tenant(tenant)),
            None => request,
        }
    }
}

impl Worker<ChatJob, ChatCompletion> {
    /// Runs with this client: each job is one chat. One for which the client's own
    /// [`Admission`](crate::schedule::Admission) has no room waits for it, and its attempt does not end; if the worker
    /// drains meanwhile, the job goes back into the queue.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_chat(self, client: impl LlmClient) -> Result<WorkerReport> {
        let (env, drain) = (self.env(), self.drain());
        let parts = std::sync::Arc::new((client, env, drain));
        self.run(move |job| {
            let parts = std::sync::Arc::clone(&parts);
            async move {
                let (client, env, drain) = &*parts;
                match room::ask(client, job.payload.into_request(), env, &drain.0).await {
                    Ok(answer) => Ok(answer.completion().as_ref().clone()),
                    // It waits no more, because the worker drains.
                    Err(error) if room::is_missing(&error) => {
                        let text = "the worker drained while the client's queue was full";
                        Err(Error::new(ErrorKind::Shutdown, ORIGIN, text).with_source(error))
                    }
                    Err(error) => Err(error),
                }
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_and_priority_travel_and_what_cannot_is_refused() {
        let request = ChatRequest::new("gpt-5-mini").user("Hi").with(Tenant("a".into())).with(Priority::High);
        let request = request.with(Deferrable::Yes);
        let written = serde_json::to_string(&ChatJob::new(request.clone()).unwrap()).unwrap();
        let read = serde_json::from_str::<ChatJob>(&written).unwrap().into_request();
        assert_eq!(read.body(), request.body());
        assert_eq!(read.extensions.get::<Tenant>(), Some(&Tenant("a".into())));
        assert_eq!(read.extensions.get::<Priority>(), Some(&Priority::High));
        assert_eq!(read.extensions.get(), Some(&Deferrable::Yes));
        let plain = ChatJob::new(ChatRequest::new("gpt-5-mini").user("Hi")).unwrap().into_request();
        assert_eq!((plain.extensions.get::<Tenant>(), plain.extensions.get()), (None, Some(&Priority::Low)));
        assert_eq!(plain.extensions.get::<Deferrable>(), None);
        assert!(ChatJob::new(request.with(CacheControl::new().no_store())).is_err());
        assert!(ChatJob::new(ChatRequest::new("")).is_err());
    }
}
