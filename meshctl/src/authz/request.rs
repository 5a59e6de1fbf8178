//! The request that `meshctl authz check` asks about. Tokens and values of headers are sent, and never shown.

use std::{
    fmt, fs,
    io::{self, Read},
};

use mesh_common::proto::nodemesh::{AuthzQuery, Header};
use serde_json::{Value, json};

use crate::client::Failure;

/// Agents take none that is longer.
const MAX_TOKEN: u64 = 16 * 1024;

#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "The request; without any of these, a connection is meant")]
pub struct Request {
    /// Its method [default: GET]
    #[arg(long)]
    method: Option<String>,
    /// Its path as the client writes it, with its query [default: /]
    #[arg(long)]
    path: Option<String>,
    /// Host or :authority [default: B's address and port]
    #[arg(long)]
    host: Option<String>,
    /// A header, as "x-team: blue"; may be given several times
    #[arg(long = "header", value_name = "NAME:VALUE")]
    headers: Vec<Hidden>,
    /// A JSON Web Token for `authorization: Bearer`: @FILE, - for standard input, or itself, which others can see in
    /// the list of processes
    #[arg(long, value_name = "TOKEN|@FILE|-")]
    jwt: Option<Hidden>,
}

/// What a line of the log or an error must not show.
#[derive(Clone)]
pub struct Hidden(String);

impl From<&str> for Hidden {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(set)")
    }
}

impl Request {
    /// A request is meant.
    pub fn is_meant(&self) -> bool {
        let Self { method, path, host, headers, jwt } = self;
        [method, path, host].iter().any(|option| option.is_some()) || !headers.is_empty() || jwt.is_some()
    }

    /// Adds it to a question about a connection.
    ///
    /// # Errors
    /// Names the option that is wrong, and shows nothing that may be a secret.
    pub fn ask(&self, query: &mut AuthzQuery) -> Result<(), Failure> {
        if !self.is_meant() {
            return Ok(());
        }
        let Self { method, path, host, headers, jwt } = self;
        let wrong = |option: &str, why: &str| Err(Failure::Usage(format!("{option}: {why}")));
        // The agent reads it as it reads those that arrive; here is said what would be no request at all.
        query.method = method.clone().unwrap_or_else(|| "GET".to_owned());
        if query.method.parse::<http::Method>().is_err() {
            return wrong("--method", "it is no method of HTTP");
        }
        query.path = path.clone().unwrap_or_else(|| "/".to_owned());
        if !query.path.starts_with('/') && query.path != "*" {
            return wrong("--path", "a path begins with `/`");
        }
        query.host = host.clone().unwrap_or_default();
        if host.as_ref().is_some_and(|host| host.parse::<http::uri::Authority>().is_err()) {
            return wrong("--host", "it is no host, with or without a port");
        }
        for (number, Hidden(header)) in headers.iter().enumerate() {
            let option = if headers.len() > 1 { format!("--header, number {}", number + 1) } else { "--header".into() };
            let Some((name, value)) = header.split_once(':') else {
                return wrong(&option, "a header is NAME:VALUE");
            };
            let Ok(name) = name.trim().parse::<http::HeaderName>() else {
                return wrong(&option, "its name is none that a header may have");
            };
            if http::HeaderValue::try_from(value.trim()).is_err() {
                return wrong(&option, "its value has characters that no header may have");
            }
            query.headers.push(Header { name: name.to_string(), value: value.trim().to_owned() });
        }
        if let Some(Hidden(jwt)) = jwt {
            query.token = token(jwt)?;
        }
        Ok(())
    }
}

fn token(option: &str) -> Result<String, Failure> {
    let wrong = |why: String| Failure::Usage(format!("--jwt: {why}"));
    let read = |from: &mut dyn Read| {
        let mut text = String::new();
        from.take(MAX_TOKEN + 1).read_to_string(&mut text).map(|_| text)
    };
    let text = match (option.strip_prefix('@'), option) {
        (Some(path), _) => fs::File::open(path)
            .and_then(|mut file| read(&mut file))
            .map_err(|error| wrong(format!("cannot read {path}: {error}")))?,
        (None, "-") => {
            read(&mut io::stdin().lock()).map_err(|error| wrong(format!("cannot read standard input: {error}")))?
        }
        (None, token) => token.to_owned(),
    };
    let token = text.trim();
    match token {
        "" => Err(wrong("it is empty".to_owned())),
        long if long.len() as u64 > MAX_TOKEN => Err(wrong(format!("it is longer than {MAX_TOKEN} bytes"))),
        odd if !odd.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Err(wrong("it has characters that no token has".to_owned()))
        }
        token => Ok(token.to_owned()),
    }
}

/// For people; a query is left out, since it may hold a secret.
pub fn text(query: &AuthzQuery) -> String {
    let AuthzQuery { method, path, host, token, .. } = query;
    if method.is_empty() {
        return String::new();
    }
    let at = if host.is_empty() { String::new() } else { format!(" at {host}") };
    let bearing = if token.is_empty() { "" } else { " with a token" };
    format!(" {method} {}{at}{bearing}", bare(path))
}

fn bare(path: &str) -> &str {
    path.split('?').next().unwrap_or_default()
}

/// Of `-o json` and `-o yaml`.
pub fn record(query: &AuthzQuery) -> Value {
    let AuthzQuery { source: _, destination: _, port: _, method, path, host, headers, token } = query;
    if method.is_empty() {
        return Value::Null;
    }
    let names: Vec<&str> = headers.iter().map(|header| header.name.as_str()).collect();
    json!({ "method": method, "path": bare(path), "host": host, "headers": names, "token": !token.is_empty() })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        request: Request,
    }

    fn asked(line: &[&str]) -> Result<AuthzQuery, String> {
        let line = Line::try_parse_from([&["check"], line].concat()).map_err(|error| error.to_string())?;
        let mut query = AuthzQuery::default();
        line.request.ask(&mut query).map(|()| query).map_err(|failure| failure.to_string())
    }

    #[test]
    fn any_option_makes_a_request_of_it() {
        assert_eq!(asked(&[]).unwrap(), AuthzQuery::default());
        let query = asked(&["--header", "X-Team: blue", "--header", "a:b:c", "--path", "/x?y=1"]).unwrap();
        assert_eq!((query.method.as_str(), query.path.as_str(), query.host.as_str()), ("GET", "/x?y=1", ""));
        let headers: Vec<_> = query.headers.iter().map(|h| (h.name.as_str(), h.value.as_str())).collect();
        assert_eq!(headers, [("x-team", "blue"), ("a", "b:c")]);
        assert_eq!(asked(&["--host", "web:8080"]).unwrap().path, "/");
        assert_eq!(text(&query), " GET /x", "a query may hold a token");
        assert_eq!(record(&query)["path"], "/x");
    }

    #[test]
    fn a_token_is_read_from_where_nobody_sees_it_and_not_said_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        fs::write(&file, "ey.J.x\n").unwrap();
        let query = asked(&["--jwt", &format!("@{}", file.display())]).unwrap();
        assert_eq!(query.token, "ey.J.x");
        assert!(!text(&query).contains("ey") && !record(&query).to_string().contains("ey"));
        assert_eq!(asked(&["--jwt", "ey.J.y"]).unwrap().token, "ey.J.y");
        assert_eq!(format!("{:?}", Hidden("ey".into())), "(set)");
    }

    #[test]
    fn what_is_wrong_is_named_by_its_option_without_what_may_be_a_secret() {
        let long = "s".repeat(20_000);
        for (option, value) in [
            ("--method", "GE T"),
            ("--path", "secret"),
            ("--host", "a b"),
            ("--header", "secret"),
            ("--header", "se cret: x"),
            ("--header", "a: secret\nx"),
            ("--jwt", ""),
            ("--jwt", "secret secret"),
            ("--jwt", "@/nonexistent/file"),
            ("--jwt", &long),
        ] {
            let wrong = asked(&[option, value]).map(|_| ()).unwrap_err();
            assert!(wrong.starts_with(&format!("{option}: ")), "{option} {value}: {wrong}");
            assert!(!wrong.contains("secret") && !wrong.contains("sss"), "{wrong}");
        }
        let second = asked(&["--header", "a:b", "--header", "x"]).map(|_| ()).unwrap_err();
        assert_eq!(second, "--header, number 2: a header is NAME:VALUE");
    }
}
