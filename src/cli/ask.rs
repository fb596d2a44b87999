//! A running sidecar's admin port, as `top`, `tap`, `evidence` and `statusline` ask it.

use super::{ConfigArg, load, runtime, say};
use crate::config::Config;
use secrecy::{ExposeSecret, SecretString};
use std::process::ExitCode;

/// The flag that names another sidecar.
#[derive(Debug, clap::Args)]
pub(super) struct AdminArg {
    /// The admin port of the sidecar; by default where the configuration puts it. A token is taken from the
    /// configuration, or from the environment: PLIMSOLL_ADMIN_TOKEN.
    #[arg(long, value_name = "URL", env = "PLIMSOLL_ADMIN_URL")]
    admin: Option<String>,
}

/// Where a token stands that is in no configuration here: behind a port-forward, say. No flag, because other users of a
/// machine see those.
const TOKEN: &str = "PLIMSOLL_ADMIN_TOKEN";

/// Runs a command that asks a sidecar; what it could not do is said.
pub(super) fn run(
    config: &ConfigArg,
    arg: &AdminArg,
    command: impl AsyncFnOnce(Admin) -> Result<(), String>,
) -> ExitCode {
    let config = match load(config.config.as_deref()) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(code) => return code,
    };
    match runtime.block_on(command(Admin::of(arg, &config))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            say(&problem);
            ExitCode::FAILURE
        }
    }
}

/// A sidecar that is asked.
#[derive(Debug)]
pub(super) struct Admin {
    base: String,
    token: Option<SecretString>,
}

impl Admin {
    /// The one that is named, or that of the configuration.
    pub(super) fn of(arg: &AdminArg, config: &Config) -> Self {
        let named = arg.admin.as_deref().map(|url| url.trim_end_matches('/'));
        // As curl takes it.
        let base =
            named.map(|url| if url.contains("://") { url.to_owned() } else { format!("http://{url}") });
        let given = std::env::var(TOKEN).ok().filter(|token| !token.is_empty()).map(SecretString::from);
        Self {
            base: base.unwrap_or_else(|| format!("http://{}", config.admin.bind)),
            token: given.or_else(|| config.admin.token.as_deref().cloned()),
        }
    }

    /// A request of this path, with the token.
    pub(super) fn request(
        &self,
        client: &reqwest::Client,
        method: reqwest::Method,
        path: &str,
    ) -> reqwest::RequestBuilder {
        let request = client.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        }
    }

    /// Asks, and gives an answer that is one.
    pub(super) async fn get(
        &self,
        client: &reqwest::Client,
        path: &str,
    ) -> Result<reqwest::Response, String> {
        let answer = self.request(client, reqwest::Method::GET, path).send().await;
        let answer = answer.map_err(|error| self.gone(error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.text().await.unwrap_or_default();
        let text = text.trim();
        Err(match (status.as_u16(), &self.token) {
            (401, None) => format!(
                "401: {text} Put it into {TOKEN}, or name the sidecar's configuration: --config FILE."
            ),
            (401, Some(_)) => format!("401: the token is not that of {}.", self.base),
            (status, _) => format!("{status}: {text}"),
        })
    }

    /// Why there was no answer.
    pub(super) fn gone(&self, error: reqwest::Error) -> String {
        let base = &self.base;
        if error.is_builder() {
            return format!("{base} is no URL: --admin http://HOST:PORT");
        }
        if error.is_timeout() {
            return format!("the sidecar at {base} takes too long to answer");
        }
        format!(
            "no sidecar answers at {base}. Is it running? --admin names another one. ({})",
            error.without_url()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outgoing::Redirects;

    fn admin(url: Option<&str>) -> Admin {
        Admin::of(&AdminArg { admin: url.map(str::to_owned) }, &Config::defaults())
    }

    #[test]
    fn a_sidecar_is_named_as_curl_takes_it() {
        assert_eq!(admin(None).base, "http://127.0.0.1:9430");
        assert_eq!(admin(Some("127.0.0.1:1/")).base, "http://127.0.0.1:1");
        assert_eq!(admin(Some("https://plimsoll.example/x/")).base, "https://plimsoll.example/x");
    }

    #[tokio::test]
    async fn what_is_no_address_is_said_as_such() {
        let client = crate::outgoing::client(Redirects::FollowedByReads).no_proxy().build().unwrap();
        let said = admin(Some("http://a b")).get(&client, "/v1/state").await.unwrap_err();
        assert!(said.contains("is no URL"), "{said}");
    }
}
