//! Settings of the client, checked once at `build()`.

use std::fmt;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::ORIGIN;
use super::client::OpenAi;
use crate::client::ClientInfo;
use crate::error::{Error, ErrorKind, Result};

const PUBLIC: &str = "https://api.openai.com/v1";
/// Longer than any connection lives.
const MOST_IDLE: Duration = Duration::from_secs(365 * 86_400);
const HIDDEN: &str = "(not shown)";

/// A text that never shows up in `Debug`.
#[derive(Clone, PartialEq, Eq)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Settings of an [`OpenAi`] client. Nothing is checked before [`build`](Self::build).
#[derive(Debug, Clone)]
#[must_use]
pub struct OpenAiBuilder {
    // A base URL may hold a key in its query.
    base_url: Secret,
    api_key: Option<Secret>,
    headers: Vec<(String, Secret)>,
    account: String,
    connect_timeout: Duration,
    pool_idle_timeout: Duration,
    http2_prior_knowledge: bool,
    max_body_bytes: usize,
}

impl OpenAiBuilder {
    pub(super) fn new(base_url: &str) -> Self {
        Self {
            base_url: Secret(base_url.to_owned()),
            api_key: None,
            headers: Vec::new(),
            account: String::new(),
            connect_timeout: Duration::from_secs(5),
            pool_idle_timeout: Duration::from_secs(90),
            http2_prior_knowledge: false,
            max_body_bytes: 16 << 20,
        }
    }

    /// From variables: an empty one counts as unset, as in a container that sets all it knows.
    pub(super) fn from_vars(var: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name| var(name).filter(|value| !value.is_empty());
        let builder = Self::new(set("OPENAI_BASE_URL").as_deref().unwrap_or(PUBLIC));
        match set("OPENAI_API_KEY") {
            Some(key) => builder.api_key(key),
            None => builder,
        }
    }

    pub(super) fn public() -> Self {
        Self::new(PUBLIC)
    }

    /// Sends `authorization: Bearer <key>`. Default: none, which local servers accept and the public endpoint does not.
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(Secret(key.into()));
        self
    }

    /// Sends `openai-organization`. Default: none, so the key's own organization is billed.
    pub fn organization(self, id: impl Into<String>) -> Self {
        self.header("openai-organization", id)
    }

    /// Sends `openai-project`. Default: none, so the key's own project is billed.
    pub fn project(self, id: impl Into<String>) -> Self {
        self.header("openai-project", id)
    }

    /// Sends a header with every request, replacing one of the same name, `authorization` included. Its value is kept
    /// out of everything printed. `content-type`, `content-length`, `transfer-encoding` and `accept-encoding` belong to
    /// the client.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), Secret(value.into())));
        self
    }

    /// Says whose account is billed: a name, never the key. It becomes [`ClientInfo::account`], so two accounts never
    /// share a cached answer, and a rotated key finds its own again. Default: empty.
    pub fn account(mut self, name: impl Into<String>) -> Self {
        self.account = name.into();
        self
    }

    /// How long connecting may take, name lookup and TLS handshake included; more than zero. Default: 5 s, which leaves
    /// room for one lost packet of each step on a far network and is still far below any answer's own time.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// How long an unused connection is kept; more than zero, at most a year counts. Default: 90 s, reqwest's own: long enough for a
    /// conversation's pauses. Choose less than your gateway's idle limit.
    pub fn pool_idle_timeout(mut self, limit: Duration) -> Self {
        self.pool_idle_timeout = limit;
        self
    }

    /// Speaks HTTP/2 from the first byte, also without TLS. Default: off; over TLS the two sides agree on HTTP/2 by
    /// themselves, and a server that knows only HTTP/1.1 would not understand.
    pub fn http2_prior_knowledge(mut self, on: bool) -> Self {
        self.http2_prior_knowledge = on;
        self
    }

    /// The most bytes of one answer, or of one event of a stream, after decompression; more than zero. A larger one is
    /// refused while it is read. Default: 16 MiB: over ten times the longest answer a model writes, and room for 500
    /// embeddings of 3072 dimensions.
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.max_body_bytes = bytes;
        self
    }

    /// Makes the client. It connects on first use.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a base URL that is not an absolute `http` or `https` URL or holds credentials, an
    /// empty key, a key or header that HTTP cannot carry, a header that belongs to the client, a zero limit, the public
    /// endpoint without a key, or a system without usable TLS roots.
    pub fn build(self) -> Result<OpenAi> {
        let base = self.base()?;
        let headers = self.header_map(&base)?;
        for (setting, value) in
            [("connect_timeout", self.connect_timeout), ("pool_idle_timeout", self.pool_idle_timeout)]
        {
            if value.is_zero() {
                return Err(Error::config(ORIGIN, setting, "0s", "use at least 1 ms"));
            }
        }
        if self.max_body_bytes == 0 {
            return Err(Error::config(ORIGIN, "max_body_bytes", 0, "use at least the size of one answer"));
        }
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("sluicegate/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(self.connect_timeout)
            // The pool adds it to an instant, which panics on overflow.
            .pool_idle_timeout(self.pool_idle_timeout.min(MOST_IDLE))
            // A redirected POST becomes a GET, and a key must not follow to another host.
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false);
        if self.http2_prior_knowledge {
            http = http.http2_prior_knowledge();
        }
        let http = http.build().map_err(|cause| {
            Error::new(ErrorKind::Config, ORIGIN, "the HTTP client could not be set up; are TLS roots installed?")
                .with_source(cause.without_url())
        })?;
        let info = ClientInfo { provider: ORIGIN.to_owned(), endpoint: endpoint(&base), account: self.account };
        Ok(OpenAi::new_from(http, &base, info, self.max_body_bytes))
    }

    fn base(&self) -> Result<Url> {
        let refused = |shown: &str, remedy| Err(Error::config(ORIGIN, "base_url", shown, remedy));
        let absolute = "give an absolute http or https URL, such as http://localhost:8000/v1";
        // What is no URL may well be a key in the wrong place.
        let Ok(url) = Url::parse(&self.base_url.0) else { return refused(HIDDEN, absolute) };
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return refused(HIDDEN, absolute);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refused(&endpoint(&url), "take the credentials out of the URL and use api_key or header");
        }
        if endpoint(&url).ends_with("/chat/completions") {
            return refused(&endpoint(&url), "leave /chat/completions out: it is added to the base");
        }
        Ok(url)
    }

    fn header_map(&self, base: &Url) -> Result<HeaderMap> {
        let mut map = HeaderMap::new();
        if let Some(Secret(key)) = &self.api_key {
            if key.trim().is_empty() {
                let remedy = "give a key, or leave api_key out for a server that needs none";
                return Err(Error::config(ORIGIN, "api_key", "\"\"", remedy));
            }
            // Visible ASCII only: a pasted line end or typographic quote must not reach the wire.
            if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                let remedy = "the key holds a space, a control or a non-ASCII character; paste it again";
                return Err(Error::config(ORIGIN, "api_key", HIDDEN, remedy));
            }
            map.insert(AUTHORIZATION, sensitive("api_key", &format!("Bearer {key}"))?);
        }
        for (name, Secret(value)) in &self.headers {
            let Ok(header) = HeaderName::try_from(name.as_str()) else {
                return Err(Error::config(ORIGIN, "header", format!("{name:?}"), "this is no HTTP header name"));
            };
            if matches!(header.as_str(), "content-type" | "content-length" | "transfer-encoding" | "accept-encoding") {
                return Err(Error::config(ORIGIN, "header", header, "leave it out: the client sets it"));
            }
            let value = sensitive(header.as_str(), value)?;
            map.insert(header, value);
        }
        if base.host_str() == Some("api.openai.com") && !map.contains_key(AUTHORIZATION) {
            return Err(Error::config(
                ORIGIN,
                "api_key",
                "unset",
                "api.openai.com needs one: set it, or OPENAI_API_KEY",
            ));
        }
        Ok(map)
    }
}

fn sensitive(setting: &str, value: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| Error::config(ORIGIN, setting, HIDDEN, "it holds a control or non-ASCII character"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// `scheme://host[:port]/path`, without credentials, query and fragment.
fn endpoint(url: &Url) -> String {
    let mut url = url.clone();
    // Both refuse only URLs without a host, which hold no credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
#[path = "builder_tests.rs"]
mod tests;
