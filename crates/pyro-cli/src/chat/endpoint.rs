//! An endpoint that serves a model: where it is, one request, and what to do where it fails.

use std::error::Error;
use std::time::Duration;

use hyper::{StatusCode, Uri};
use pyro_core::{EndpointSettings, ErrorKind, PyroError, Timeout};
use serde_json::{Value, json};

use super::connection::{Answer, ExchangeError, Route};
use super::reply::{Reply, ReplyError, reported, shown};

/// Of the models that are there, in a hint.
const MODELS_SHOWN_MAX: usize = 5;

/// Of a model's name, in a hint.
const MODEL_BYTES_MAX: usize = 100;

/// For the list of models, which is asked for to explain a failure.
const MODELS_DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct Endpoint {
    /// As the user wrote it, for messages.
    base_url: String,
    model: String,
    route: Route,
    deadline: Duration,
    withholds_key: bool,
}

impl Endpoint {
    /// `deadline` is for each reply. Fails with `invalid_input` where a value makes no sense.
    pub(crate) fn new(
        base_url: &str,
        model: &str,
        deadline: Timeout,
        settings: &EndpointSettings,
    ) -> Result<Self, PyroError> {
        if model.trim().is_empty() {
            return Err(invalid("model must not be empty".to_owned())
                .hint("name one that the endpoint has; `ollama list` shows them"));
        }
        let route = Route::new(base(base_url)?, settings);
        if settings.api_key.is_some() && route.keeps_secrets() && !route.shows_key() {
            let message = "OPENAI_API_KEY has characters that no key has".to_owned();
            return Err(invalid(message).hint("set it anew, without line ends"));
        }
        Ok(Self {
            base_url: base_url.to_owned(),
            model: model.to_owned(),
            withholds_key: settings.api_key.is_some() && !route.keeps_secrets(),
            route,
            deadline: deadline.get(),
        })
    }

    pub(crate) fn base_url(&self) -> &str {
        &self.base_url
    }

    pub(crate) fn model(&self) -> &str {
        &self.model
    }

    /// Whether there is a key that it is not shown, because others could read it on the way.
    pub(crate) fn withholds_key(&self) -> bool {
        self.withholds_key
    }

    /// Has the model reply to `messages`.
    pub(super) async fn reply(
        &self,
        messages: &[Value],
        tools: &Value,
    ) -> Result<Reply, PyroError> {
        // In one piece: Ollama loses calls of some models in streams.
        let body =
            json!({ "model": self.model, "messages": messages, "tools": tools, "stream": false });
        let answer = self.exchange("/chat/completions", Some(body.to_string()), self.deadline);
        let answer = answer.await?;
        if !answer.status.is_success() {
            return Err(self.refusal(&answer).await);
        }
        Reply::parse(&answer.body).map_err(|error| {
            let failure = self.failure(&error);
            match error {
                ReplyError::Reported { .. } => failure,
                ReplyError::Unknown { .. } | ReplyError::Empty => failure.hint(WHOLE_BASE_HINT),
            }
        })
    }

    async fn exchange(
        &self,
        path: &str,
        body: Option<String>,
        deadline: Duration,
    ) -> Result<Answer, PyroError> {
        let exchange = self.route.exchange(path, body.map(String::into_bytes));
        match tokio::time::timeout(deadline, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.no_answer(&error)),
            Err(_) => {
                let seconds = deadline.as_secs_f64();
                let message =
                    format!("{} at {} did not reply within {seconds} s", self.model, self.base_url);
                Err(PyroError::new(ErrorKind::DeadlineReached, message).hint(
                    "a model that is loaded for the first time, or without a GPU, can take minutes: raise \
                     `--timeout-seconds`, or take a smaller one with `--model`",
                ))
            }
        }
    }

    fn no_answer(&self, error: &ExchangeError) -> PyroError {
        let failure = self.failure(error);
        match error {
            ExchangeError::Unreachable { .. } => failure.hint(
                "start it: `ollama serve`; or name another endpoint: `--base-url URL`",
            ),
            ExchangeError::UnknownProxy { .. } | ExchangeError::ProxyRefuses { .. } => {
                failure.hint("to go without the proxy, name the endpoint's host in `NO_PROXY`")
            }
            ExchangeError::NoAuthorities { .. } | ExchangeError::NoBundle { .. } => failure.hint(
                "install them: `sudo apt-get install ca-certificates`; or name a file with `SSL_CERT_FILE`",
            ),
            ExchangeError::NotEncrypted { .. } => failure.hint(
                "does it speak https? If its authority is one of your own, name it with `SSL_CERT_FILE`",
            ),
            ExchangeError::Broken { .. } => {
                failure.hint("does it speak http there? Its own log may say more")
            }
            ExchangeError::TooLong => failure,
        }
    }

    /// What a status means that is no success.
    async fn refusal(&self, answer: &Answer) -> PyroError {
        let status = answer.status;
        if matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST)
            && let Some(models) = self.models().await
            && !has(&models, &self.model)
        {
            return self.no_model(&models);
        }
        let mut failure = self.failure(&Refused { status });
        let body = String::from_utf8_lossy(&answer.body);
        let told = serde_json::from_str(&body).ok().and_then(|document| reported(&document));
        let told = told.unwrap_or_else(|| shown(&body));
        if !told.is_empty() {
            failure = failure.cause(told);
        }
        if let Some(location) = &answer.location {
            return failure
                .hint(format!("it points to {}: `--base-url` names it", shown(location)));
        }
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.withholds_key => failure.hint(
                "`OPENAI_API_KEY` is not sent without encryption: use an https URL, or a tunnel to this host",
            ),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                failure.hint("set `OPENAI_API_KEY` to a key that it takes")
            }
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => failure.hint(WHOLE_BASE_HINT),
            StatusCode::BAD_REQUEST => failure.hint(
                "not every model can call tools: name one that can, for instance `--model llama3.2:3b`",
            ),
            StatusCode::TOO_MANY_REQUESTS => failure.hint("wait, and try again"),
            _ => failure.hint("try again; its own log may say more"),
        }
    }

    fn no_model(&self, models: &[String]) -> PyroError {
        let message = format!("{} has no model '{}'", self.base_url, self.model);
        let failure = PyroError::new(ErrorKind::NotAvailable, message)
            .hint(format!("fetch it: `ollama pull {}`", self.model));
        let proper = models.iter().filter(|name| is_proper(name));
        let some: Vec<_> = proper.take(MODELS_SHOWN_MAX).map(String::as_str).collect();
        match some.as_slice() {
            [] => failure,
            some => failure
                .hint(format!("or take one that it has: `--model {}`", some.join("`, `--model "))),
        }
    }

    /// The models there are, if it tells.
    async fn models(&self) -> Option<Vec<String>> {
        let answer = self.exchange("/models", None, MODELS_DEADLINE).await.ok()?;
        let document: Value = serde_json::from_slice(&answer.body).ok()?;
        let models = document.get("data").filter(|_| answer.status.is_success())?;
        // Ollama that has none says null.
        let models = models.as_array().map(Vec::as_slice).unwrap_or_default();
        Some(models.iter().filter_map(|model| model["id"].as_str().map(str::to_owned)).collect())
    }

    fn failure(&self, error: &(dyn Error + 'static)) -> PyroError {
        PyroError::from_error(ErrorKind::NotAvailable, error)
            .context(format!("no reply from {} at {}", self.model, self.base_url))
    }
}

const WHOLE_BASE_HINT: &str = "`--base-url` is what stands before `/chat/completions`, for instance \
                               http://localhost:11434/v1";

#[derive(Debug, thiserror::Error)]
#[error("it answers with status {status}")]
struct Refused {
    status: StatusCode,
}

/// Whether a model is among those there are. Ollama's names mean `latest` where they say nothing.
fn has(models: &[String], model: &str) -> bool {
    let latest = format!("{model}:latest");
    models.iter().any(|known| known == model || *known == latest)
}

/// Whether a name can stand in a command that people paste: the endpoint chose it.
fn is_proper(model: &str) -> bool {
    model.len() <= MODEL_BYTES_MAX
        && model.starts_with(|first: char| first.is_ascii_alphanumeric())
        && model.chars().all(|it| it.is_ascii_alphanumeric() || "._:/@+-".contains(it))
}

fn base(base_url: &str) -> Result<Uri, PyroError> {
    let refused = |why: &str| {
        invalid(format!(
            "base_url must be the URL of an endpoint, not '{}': {why}",
            shown(base_url)
        ))
        .hint("for instance `--base-url http://localhost:11434/v1`")
    };
    let uri: Uri = base_url.trim_end_matches('/').parse().map_err(|_| refused("it is no URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(refused("it does not begin with http:// or https://"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(refused("it names no host"));
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        // Which would stand in every message.
        return Err(invalid("base_url must have no password in it".to_owned())
            .hint("set `OPENAI_API_KEY` to the key"));
    }
    if uri.query().is_some() {
        return Err(refused("it has a query"));
    }
    if uri.path().trim_matches('/').is_empty() {
        // What everybody means who writes a host and a port.
        let whole = format!("{}://{authority}/v1", uri.scheme_str().unwrap_or_default());
        return whole.parse().map_err(|_| refused("it is no URL"));
    }
    Ok(uri)
}

fn invalid(message: String) -> PyroError {
    PyroError::new(ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_without_a_path_means_the_usual_one() {
        for (text, url) in [
            ("http://localhost:11434", "http://localhost:11434/v1"),
            ("http://localhost:11434/", "http://localhost:11434/v1"),
            ("http://localhost:11434/v1/", "http://localhost:11434/v1"),
            ("https://api.example/openai/v1", "https://api.example/openai/v1"),
            ("http://[::1]:8000", "http://[::1]:8000/v1"),
        ] {
            assert_eq!(base(text).unwrap().to_string(), url);
        }
    }

    #[test]
    fn what_is_no_base_url_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "it is no URL"),
            ("localhost:11434", "it does not begin with http:// or https://"),
            ("ftp://localhost/v1", "it does not begin with http:// or https://"),
            ("http://a b/v1", "it is no URL"),
            ("http://localhost/v1?key=x", "it has a query"),
        ] {
            let error = base(text).unwrap_err();
            let message = format!("base_url must be the URL of an endpoint, not '{text}': {why}");
            assert_eq!(error.message, message);
        }
        let error = base("http://me:secret@localhost/v1").unwrap_err();
        assert!(!error.message.contains("secret"), "{error}");
    }

    #[test]
    fn a_model_without_a_tag_is_the_latest() {
        let models = ["llama3.2:latest".to_owned(), "qwen3:4b".to_owned()];
        assert!(has(&models, "llama3.2") && has(&models, "qwen3:4b"));
        assert!(!has(&models, "qwen3") && !has(&[], "qwen3"));
    }

    #[test]
    fn a_model_whose_name_is_a_command_is_not_proposed() {
        let settings = EndpointSettings::default();
        let endpoint = Endpoint::new("http://localhost/v1", "m", Timeout::DEFAULT, &settings);
        let names = ["x; touch y", "$(id)", "-v", "a`b", "", "hf.co/a/b-GGUF:Q4_K_M", "qwen3:4b"];
        let error = endpoint.unwrap().no_model(&names.map(str::to_owned));
        let proposed =
            "or take one that it has: `--model hf.co/a/b-GGUF:Q4_K_M`, `--model qwen3:4b`";
        assert_eq!(error.hints[1..], [proposed]);
        assert!(!is_proper(&"a".repeat(MODEL_BYTES_MAX + 1)));
    }

    #[test]
    fn a_key_that_is_none_is_refused_and_not_shown() {
        let settings =
            EndpointSettings { api_key: Some("sec\nret".to_owned()), ..Default::default() };
        let endpoint = |url| Endpoint::new(url, "m", Timeout::DEFAULT, &settings);
        let error = endpoint("http://localhost/v1").err().unwrap();
        assert_eq!(error.message, "OPENAI_API_KEY has characters that no key has");
        assert!(endpoint("http://10.0.0.1/v1").unwrap().withholds_key());
    }
}
