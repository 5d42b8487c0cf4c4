//! Asking the hub: redirects, the token, and what to do when an answer does not come.

use std::io::{self, Read};
use std::result::Result as StdResult;
use std::time::Duration;

use foretoken::{Error, Result};
use ureq::http::{HeaderMap, Uri};
use ureq::{Agent, Body, Proxy};

use super::settings::{Settings, Token};
use crate::console;
use crate::terminal::print_status;

/// An answer that says no word for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);

const CONNECT: Duration = Duration::from_secs(20);

/// More than the hub and its stores send on.
const MOST_REDIRECTS: usize = 10;

/// A longer wait than this is the user's to decide.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Why an attempt failed.
pub enum Trouble {
    /// It may pass by itself.
    Passing {
        /// What went wrong.
        what: String,
        /// How long the server asks to wait.
        wait: Option<Duration>,
        /// Whether the attempt came further than all before it.
        progress: bool,
    },
    /// It will be the same next time.
    Lasting(Error),
}

impl Trouble {
    pub fn passing(what: impl Into<String>) -> Self {
        Self::Passing { what: what.into(), wait: None, progress: false }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Lasting(error)
    }
}

/// How often something is tried, and how long is waited in between.
pub struct Patience {
    /// Failures in a row, without any progress, after which it is given up.
    tries: u32,
    /// The first wait; each later one is twice the one before.
    first: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { tries: 5, first: Duration::from_millis(500) }
    }
}

impl Patience {
    /// Tries until it works or there is no hope.
    pub fn persist<T>(&self, mut attempt: impl FnMut() -> StdResult<T, Trouble>) -> Result<T> {
        let mut failures = 0;
        loop {
            let (what, wait, progress) = match attempt() {
                Ok(value) => return Ok(value),
                Err(Trouble::Lasting(error)) => return Err(error),
                Err(Trouble::Passing { what, wait, progress }) => (what, wait, progress),
            };
            failures = if progress { 0 } else { failures + 1 };
            if failures == self.tries {
                return Err(Error::io(format!(
                    "{what}, {failures} times in a row; try again later: what was downloaded is kept"
                )));
            }
            if let Some(wait) = wait.filter(|wait| *wait > LONGEST_WAIT) {
                let seconds = wait.as_secs();
                return Err(Error::io(format!("{what}, and asks to wait {seconds} seconds; try again then")));
            }
            let pause = wait.unwrap_or_else(|| self.first * failures.checked_sub(1).map_or(0, |times| 1 << times));
            if pause >= Duration::from_secs(1) {
                print_status(format_args!("note: {what}; the next attempt is in {} s", pause.as_secs()));
            }
            if !pause.is_zero() {
                console::with(|console| (console.sleep)(pause));
            }
        }
    }
}

/// Asks one hub.
pub struct Client {
    agent: Agent,
    endpoint: Uri,
    token: Option<Token>,
    /// How often it asks.
    pub patience: Patience,
}

/// An answer of the hub, or of where it sent on to.
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Body,
    /// The hash of the file's content that the hub itself stated.
    pub etag: Option<String>,
    /// The commit that it comes from, as the hub itself stated.
    pub commit: Option<String>,
    /// The length of the whole file that the hub itself stated.
    pub linked_size: Option<u64>,
    /// The hub's word for what is wrong.
    pub code: Option<String>,
    /// Whether another host answered.
    pub elsewhere: bool,
    /// The host that answered.
    host: String,
}

impl Client {
    /// A client of the hub that the settings name.
    ///
    /// # Errors
    /// Where certificates cannot be read, or this program cannot speak https.
    pub fn new(settings: &Settings) -> Result<Self> {
        let endpoint: Uri =
            settings.endpoint.parse().map_err(|_| Error::input("HF_ENDPOINT: expected the address of a hub"))?;
        if endpoint.scheme_str() == Some("https") && !cfg!(feature = "tls") {
            let message = "this program was built without its feature `tls`, so it cannot ask a hub through https";
            return Err(Error::unsupported(message));
        }
        // A server on this machine is asked without a proxy, whatever the environment says.
        let proxy = if is_loopback(&endpoint) { None } else { Proxy::try_from_env() };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(proxy)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!("foretoken/", env!("CARGO_PKG_VERSION")));
        #[cfg(feature = "tls")]
        let config = match &settings.certificates {
            Some(path) => config.tls_config(certificates(path)?),
            None => config,
        };
        let agent = config.build().new_agent();
        Ok(Self { agent, endpoint, token: settings.token.clone(), patience: Patience::default() })
    }

    /// Asks twice at most: where there is something else to do.
    #[must_use]
    pub fn impatient(self) -> Self {
        Self { patience: Patience { tries: 2, ..self.patience }, ..self }
    }

    /// The hub's host, for messages.
    pub fn host(&self) -> &str {
        self.endpoint.authority().map_or("", |authority| authority.as_str())
    }

    /// The hub's address.
    pub fn endpoint(&self) -> String {
        self.endpoint.to_string().trim_end_matches('/').to_owned()
    }

    /// Whether a token is shown.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Asks for `path` on the hub, of the content only `range` if one is given (`0-`, `5-9`), and follows redirects. The token goes to
    /// the hub and to nobody else.
    pub fn get(&self, path: &str, range: Option<&str>) -> StdResult<Reply, Trouble> {
        let mut uri = self.resolve(&self.endpoint, &format!("{}{path}", self.endpoint()))?;
        let (mut etag, mut commit, mut linked_size) = (None, None, None);
        for _ in 0..MOST_REDIRECTS {
            let host = uri.authority().map_or_else(String::new, ToString::to_string);
            let at_home = is_same_origin(&uri, &self.endpoint);
            let mut request = self.agent.get(uri.clone()).header("Accept-Encoding", "identity");
            if let Some(token) = self.token.as_ref().filter(|_| at_home) {
                request = request.header("Authorization", token.header());
            }
            if let Some(range) = range {
                request = request.header("Range", format!("bytes={range}"));
            }
            // The error would name the address, which at a store holds what grants access to it.
            let response = request.call().map_err(|error| unanswered(&host, &error))?;
            let (parts, body) = response.into_parts();
            let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let status = parts.status.as_u16();
            let redirects = matches!(status, 301 | 302 | 303 | 307 | 308);
            if at_home {
                let own = header("etag").filter(|_| !redirects);
                etag = etag.or_else(|| header("x-linked-etag").or(own).map(|etag| plain_etag(&etag)));
                commit = commit.or_else(|| header("x-repo-commit"));
                linked_size = linked_size.or_else(|| header("x-linked-size")?.parse().ok());
            }
            let code = header("x-error-code");
            if let Some(place) = header("location").filter(|_| redirects) {
                uri = self.resolve(&uri, &place)?;
                continue;
            }
            let (headers, elsewhere) = (parts.headers, !at_home);
            let reply = Reply { status, headers, body, etag, commit, linked_size, code, elsewhere, host };
            return if reply.may_pass() { Err(reply.trouble()) } else { Ok(reply) };
        }
        let message = format!("{}: sent on {MOST_REDIRECTS} times without an answer", self.host());
        Err(Error::io(message).into())
    }

    /// The address that `place` is, seen from `from`.
    fn resolve(&self, from: &Uri, place: &str) -> StdResult<Uri, Trouble> {
        let (scheme, authority) = (from.scheme_str().unwrap_or_default(), from.authority());
        let authority = authority.map_or("", |authority| authority.as_str());
        let whole = match place {
            place if place.starts_with("//") => format!("{scheme}:{place}"),
            place if place.starts_with('/') => format!("{scheme}://{authority}{place}"),
            place => place.to_owned(),
        };
        let uri: Option<Uri> = whole.parse().ok();
        let known = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some();
        let uri = uri.filter(known).ok_or_else(|| {
            Error::io(format!("{authority}: sent on to what is no address of the web; is a proxy in between?"))
        })?;
        if scheme == "https" && uri.scheme_str() == Some("http") {
            let message = format!("{authority}: sent on to an address without encryption, which is not followed");
            return Err(Error::io(message).into());
        }
        Ok(uri)
    }
}

impl Reply {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether the same question may have another answer soon. A store's address is good for a while only, then it says 403.
    fn may_pass(&self) -> bool {
        matches!(self.status, 408 | 425 | 429 | 500..) || self.elsewhere && matches!(self.status, 401 | 403 | 404)
    }

    fn trouble(&self) -> Trouble {
        let wait = self.header("retry-after").and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
        Trouble::Passing { what: format!("{}: {}", self.host, self.said()), wait, progress: false }
    }

    /// The status in words.
    pub fn said(&self) -> String {
        let status = ureq::http::StatusCode::from_u16(self.status).ok();
        let words = status.and_then(|status| status.canonical_reason()).unwrap_or("an unknown status");
        let hint = if self.status == 429 { " (it limits how much one may ask)" } else { "" };
        format!("it answered {} {words}{hint}", self.status)
    }

    /// The whole body.
    ///
    /// # Errors
    /// Passing where it breaks off, lasting where it is longer than `most`.
    pub fn read_whole(self, most: u64) -> StdResult<Vec<u8>, Trouble> {
        let host = self.host.clone();
        let mut bytes = Vec::new();
        let mut reader = self.body.into_with_config().limit(u64::MAX).reader().take(most + 1);
        reader.read_to_end(&mut bytes).map_err(|error| Trouble::passing(format!("{host}: {}", cut(&error))))?;
        if bytes.len() as u64 > most {
            return Err(Error::io(format!("{host}: expected an answer of at most {most} bytes, got more")).into());
        }
        Ok(bytes)
    }

    /// The body to read bit by bit.
    pub fn into_reader(self) -> impl Read {
        self.body.into_with_config().limit(u64::MAX).reader()
    }
}

/// Describes why a body could not be read to its end.
pub fn cut(error: &io::Error) -> String {
    format!("the connection broke off ({error})")
}

/// The trouble that no answer came.
fn unanswered(host: &str, error: &ureq::Error) -> Trouble {
    match error {
        // The error of a certificate that is not trusted.
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => Trouble::Lasting(Error::io(format!(
            "{host}: {error}; does a proxy in between read along? Name a file with its certificates in SSL_CERT_FILE"
        ))),
        error => Trouble::passing(format!("{host}: {}", reason(error))),
    }
}

/// Describes why no answer came, without the address that was asked.
fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::HostNotFound => "there is no host of this name; is this machine on the network?".to_owned(),
        ureq::Error::Io(error) => format!("no connection ({error})"),
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        ureq::Error::ConnectionFailed => "no connection".to_owned(),
        ureq::Error::BadUri(_) => "this address cannot be asked".to_owned(),
        other => other.to_string(),
    }
}

/// An ETag without its quotes and the mark of a weak one.
fn plain_etag(etag: &str) -> String {
    etag.trim().trim_start_matches("W/").trim_matches('"').to_ascii_lowercase()
}

fn port(uri: &Uri) -> Option<u16> {
    uri.port_u16().or(match uri.scheme_str() {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    })
}

fn is_same_origin(a: &Uri, b: &Uri) -> bool {
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    a.scheme_str() == b.scheme_str() && host(a) == host(b) && port(a) == port(b)
}

fn is_loopback(uri: &Uri) -> bool {
    matches!(uri.host(), Some("localhost" | "[::1]")) || uri.host().is_some_and(|host| host.starts_with("127."))
}

/// Trusts the certificates in a file, as programs that use OpenSSL do where `SSL_CERT_FILE` names it.
#[cfg(feature = "tls")]
fn certificates(path: &std::path::Path) -> Result<ureq::tls::TlsConfig> {
    use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

    let pem = std::fs::read(path).map_err(|error| crate::output::io_error(path, &error).within("SSL_CERT_FILE"))?;
    let certificate = |item| if let Ok(PemItem::Certificate(certificate)) = item { Some(certificate) } else { None };
    let certificates: Vec<_> = parse_pem(&pem).filter_map(certificate).collect();
    if certificates.is_empty() {
        return Err(Error::input(format!("SSL_CERT_FILE: {} holds no certificate in PEM", path.display())));
    }
    Ok(TlsConfig::builder().root_certs(RootCerts::from(certificates)).build())
}

/// `text` as a part of an address: all but letters, digits and a few signs is escaped; slashes are only where `slashes` says so.
pub fn encoded(text: &str, slashes: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            b'/' if slashes => encoded.push('/'),
            _ => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::console::{Console, Scope};

    /// A console that only notes how long it should wait.
    fn waits() -> (Scope, Rc<RefCell<Vec<Duration>>>) {
        let waits = Rc::<RefCell<Vec<Duration>>>::default();
        let log = Rc::clone(&waits);
        let mut console = Console::apart(io::empty(), io::sink(), io::sink());
        console.sleep = Box::new(move |pause| log.borrow_mut().push(pause));
        (Scope::enter(console), waits)
    }

    #[test]
    fn waits_double_until_hope_is_gone() {
        let ((_scope, waits), patience) = (waits(), Patience::default());
        let error = patience.persist(|| Err::<(), _>(Trouble::passing("broken"))).unwrap_err().to_string();
        assert!(error.starts_with("broken, 5 times in a row"), "{error}");
        let waits: Vec<u128> = waits.borrow().iter().map(Duration::as_millis).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000]);
    }

    #[test]
    fn progress_is_hope_and_servers_say_when() {
        let ((_scope, waits), patience) = (waits(), Patience::default());
        let mut left = 50;
        let attempt = || {
            left -= 1;
            let wait = (left == 10).then_some(Duration::from_secs(7));
            if left == 0 { Ok(()) } else { Err(Trouble::Passing { what: "cut".into(), wait, progress: true }) }
        };
        patience.persist(attempt).unwrap();
        assert_eq!(*waits.borrow(), [Duration::from_secs(7)]);
    }

    #[test]
    fn too_long_a_wait_is_told_and_not_waited() {
        let ((_scope, waits), patience) = (waits(), Patience::default());
        let wait = Some(Duration::from_secs(3600));
        let attempt = || Err::<(), _>(Trouble::Passing { what: "hub: 429".into(), wait, progress: false });
        let error = patience.persist(attempt).unwrap_err().to_string();
        assert_eq!(error, "hub: 429, and asks to wait 3600 seconds; try again then");
        assert!(waits.borrow().is_empty());
    }

    #[test]
    fn origins_are_scheme_host_and_port() {
        let same = |a: &str, b: &str| is_same_origin(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://Hub.example/a", "https://hub.example:443"));
        for other in
            ["http://hub.example", "https://hub.example:444", "https://cdn.hub.example", "https://hub.example.evil"]
        {
            assert!(!same("https://hub.example", other), "{other}");
        }
    }

    #[test]
    fn addresses_are_escaped() {
        assert_eq!(encoded("a b/ü#?.gguf", true), "a%20b/%C3%BC%23%3F.gguf");
        assert_eq!(encoded("refs/pr/1", false), "refs%2Fpr%2F1");
    }
}
