//! What the environment says of the hub: the variables that other programs of the hub's obey, too.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use foretoken::{Error, Result};

use crate::console;

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// More than a token has.
const LONGEST_TOKEN: u64 = 4096;

/// Where the hub is, who asks, and where models are kept.
pub struct Settings {
    /// The beginning of the hub's addresses, without a slash at its end.
    pub endpoint: String,
    /// The folder in which models are kept.
    pub cache: PathBuf,
    /// The token that says who asks.
    pub token: Option<Token>,
    /// Nothing is asked, what is kept has to do.
    pub offline: bool,
    /// A file of certificates to trust instead of the usual ones.
    pub certificates: Option<PathBuf>,
}

/// The secret by which the hub knows a user. Nothing prints it.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// The value of the header that shows it.
    pub fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// A token in `text`, with white space around it; none in an empty one.
    ///
    /// # Errors
    /// Naming `place`, and never the text, where no header can hold it.
    fn read(text: &str, place: &str) -> Result<Option<Self>> {
        let token = text.trim();
        if !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::input(format!("{place}: expected one token, of ASCII letters, digits and signs")));
        }
        Ok((!token.is_empty()).then(|| Self(token.to_owned())))
    }
}

impl Settings {
    /// What this process's environment says.
    pub fn of_environment() -> Result<Self> {
        Self::read(&|name| console::with(|console| (console.variable)(name)).filter(|value| !value.is_empty()))
    }

    fn read(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        let home = variable(if cfg!(windows) { "USERPROFILE" } else { "HOME" }).map(PathBuf::from);
        let path = |name: &str| variable(name).map(|value| expand(Path::new(&value), home.as_deref()));
        let caches = path("XDG_CACHE_HOME").or_else(|| home.as_ref().map(|home| home.join(".cache")));
        let hub_home = path("HF_HOME").or_else(|| caches.map(|caches| caches.join("huggingface")));
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| hub_home.as_ref().map(|home| home.join("hub")))
            .ok_or_else(|| Error::input("there is no home folder to keep models in: name a folder in HF_HUB_CACHE"))?;
        let token = match variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN")) {
            Some(value) => Token::read(&value.to_string_lossy(), "HF_TOKEN")?,
            None => match path("HF_TOKEN_PATH").or_else(|| hub_home.map(|home| home.join("token"))) {
                Some(path) => token_in(&path)?,
                None => None,
            },
        };
        let endpoint = variable("HF_ENDPOINT").map(|value| value.to_string_lossy().into_owned());
        let offline = variable("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value.to_string_lossy()));
        Ok(Self {
            endpoint: check_endpoint(endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT))?,
            cache,
            token,
            offline,
            certificates: path("SSL_CERT_FILE"),
        })
    }
}

/// Whether a variable says yes, as Python's package reads it.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

/// `~` at the beginning stands for the home folder.
fn expand(path: &Path, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// The token in the file that logging in writes, where there is one.
fn token_in(path: &Path) -> Result<Option<Token>> {
    if fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= LONGEST_TOKEN) {
        let text = fs::read(path).unwrap_or_default();
        return Token::read(&String::from_utf8_lossy(&text), &path.display().to_string());
    }
    Ok(None)
}

/// The hub's address without a slash at its end.
fn check_endpoint(endpoint: &str) -> Result<String> {
    let trimmed = endpoint.trim().trim_end_matches('/');
    let uri: Option<ureq::http::Uri> = trimmed.parse().ok();
    let sound = uri.is_some_and(|uri| {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let scheme = uri.scheme_str();
        // What stands before an at sign is a password, which no message may repeat.
        matches!(scheme, Some("http" | "https"))
            && !authority.is_empty()
            && !authority.contains('@')
            && uri.query().is_none()
    });
    if !sound {
        return Err(Error::input(
            "HF_ENDPOINT: expected the address of a hub, such as https://huggingface.co, without a name or password in it",
        ));
    }
    Ok(trimmed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings> {
        let variables: Vec<_> =
            variables.iter().map(|&(name, value)| (name.to_owned(), OsString::from(value))).collect();
        let home = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
        Settings::read(&|name| {
            let name = if name == home { "HOME" } else { name };
            variables.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
        })
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cache = |variables: &[(&str, &str)]| read(variables).unwrap().cache;
        let mut variables = vec![("HOME", "/h")];
        for (name, value, expected) in [
            ("", "", "/h/.cache/huggingface/hub"),
            ("XDG_CACHE_HOME", "/x", "/x/huggingface/hub"),
            ("HF_HOME", "~/f", "/h/f/hub"),
            ("HUGGINGFACE_HUB_CACHE", "/old", "/old"),
            ("HF_HUB_CACHE", "/new", "/new"),
        ] {
            variables.push((name, value));
            assert_eq!(cache(&variables), Path::new(expected), "{name}");
        }
        assert!(read(&[]).err().unwrap().to_string().contains("HF_HUB_CACHE"));
    }

    #[test]
    fn tokens_come_from_the_variable_or_the_file_and_are_never_told() {
        let temp = tempfile::tempdir().unwrap();
        let home = temp.path().to_str().unwrap();
        let token = |more: &[(&str, &str)]| {
            let settings = read(&[&[("HF_HOME", home)], more].concat())?;
            Ok::<_, Error>(settings.token.map(|token| token.header()))
        };
        assert_eq!(token(&[]).unwrap(), None);
        fs::write(temp.path().join("token"), "hf_file\n").unwrap();
        assert_eq!(token(&[]).unwrap().unwrap(), "Bearer hf_file");
        assert_eq!(token(&[("HF_TOKEN", " hf_variable ")]).unwrap().unwrap(), "Bearer hf_variable");
        let error = token(&[("HF_TOKEN", "hf_se\ncret")]).unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("cret"), "{error}");
        fs::write(temp.path().join("token"), "hf_se cret").unwrap();
        let error = token(&[]).unwrap_err().to_string();
        assert!(error.contains("token: expected") && !error.contains("cret"), "{error}");
    }

    #[test]
    fn endpoints_are_addresses_without_passwords() {
        let endpoint = |value: &str| read(&[("HOME", "/h"), ("HF_ENDPOINT", value)]).map(|settings| settings.endpoint);
        assert_eq!(endpoint("https://hub.example/a/").unwrap(), "https://hub.example/a");
        assert_eq!(endpoint("http://127.0.0.1:80").unwrap(), "http://127.0.0.1:80");
        assert_eq!(read(&[("HOME", "/h")]).unwrap().endpoint, DEFAULT_ENDPOINT);
        for wrong in ["hub.example", "ftp://hub.example", "https://user:secret@hub.example", "https://", "https://a b"]
        {
            let error = endpoint(wrong).unwrap_err().to_string();
            assert!(error.contains("HF_ENDPOINT") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn offline_is_said_as_python_says_it() {
        for (value, expected) in
            [("1", true), ("true", true), ("YES", true), ("on", true), ("0", false), ("false", false)]
        {
            let settings = read(&[("HOME", "/h"), ("HF_HUB_OFFLINE", value)]).unwrap();
            assert_eq!(settings.offline, expected, "{value}");
        }
    }
}
