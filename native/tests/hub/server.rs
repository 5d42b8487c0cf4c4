//! A hub on loopback: a repository's list of files, small files themselves, and large ones on another host, as the real one does it.
//! A test lets it misbehave.

#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use serde_json::{Value, json};
use sha1::{Digest, Sha1};
use sha2::Sha256;

/// The commit that every branch and tag is.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the store's addresses show to be let in. Nobody but the store may see it.
pub const SIGNATURE: &str = "signed-secretly";

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whether it came to the store, on another port, and not to the hub.
    pub at_store: bool,
    pub path: String,
    headers: BTreeMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Whether it is for the content of this file, from some byte to its end, and not for a look at its header.
    pub fn downloads(&self, file: &str) -> bool {
        let is_open = self.header("range").is_some_and(|range| range.ends_with('-'));
        self.path.contains(file) && (self.at_store || !is_large(file)) && is_open
    }
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection breaks off after so many bytes of the body.
    pub cut: Option<usize>,
    /// The length is not told: the body ends where the connection does.
    pub unbounded: bool,
}

impl Answer {
    pub fn new(status: u16, body: &str) -> Self {
        Self { status, body: body.as_bytes().to_owned(), ..Self::default() }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.retain(|(other, _)| other != name);
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(other, _)| other != name);
        self
    }
}

/// What becomes of the usual answer.
type Behaviour = dyn Fn(&Request, Answer) -> Answer + Send + Sync;

/// The repository `owner/name`, on a server that ends with the test program.
pub struct Server {
    pub endpoint: String,
    shared: Arc<Shared>,
}

struct Shared {
    files: BTreeMap<String, Vec<u8>>,
    hub: String,
    store: String,
    behaviour: Mutex<Arc<Behaviour>>,
    requests: Mutex<Vec<Request>>,
}

impl Server {
    /// A hub with these files.
    pub fn start(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let [hub, store] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let address = |listener: &TcpListener| format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
        let shared = Arc::new(Shared {
            files: files.into_iter().collect(),
            hub: address(&hub),
            // Another host in every respect.
            store: address(&store).replace("127.0.0.1", "localhost"),
            behaviour: Mutex::new(Arc::new(|_, usual| usual)),
            requests: Mutex::default(),
        });
        for (listener, at_store) in [(hub, false), (store, true)] {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let shared = Arc::clone(&shared);
                    // A client that goes away in the middle is none of our business.
                    thread::spawn(move || drop(shared.serve(&stream, at_store)));
                }
            });
        }
        Self { endpoint: format!("http://{}", shared.hub), shared }
    }

    /// Changes what it answers from now on.
    pub fn behave(&self, behaviour: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static) {
        *self.shared.behaviour.lock().unwrap() = Arc::new(behaviour);
    }

    /// Answers as a hub does again, and forgets what it was asked.
    pub fn behave_well(&self) {
        self.behave(|_, usual| usual);
        self.requests().clear();
    }

    /// What it was asked.
    pub fn requests(&self) -> MutexGuard<'_, Vec<Request>> {
        self.shared.requests.lock().unwrap()
    }

    /// How often the content of a file was asked for.
    pub fn downloads(&self, file: &str) -> usize {
        self.requests().iter().filter(|request| request.downloads(file)).count()
    }

    /// The hash under which a file is kept.
    pub fn hash(&self, file: &str) -> String {
        hash(file, &self.shared.files[file])
    }
}

impl Shared {
    fn serve(&self, stream: &TcpStream, at_store: bool) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next().unwrap_or(Ok(String::new()))?;
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = BTreeMap::new();
        for line in lines {
            match line?.split_once(": ") {
                Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
                None => break,
            };
        }
        let request = Request { at_store, path, headers };
        self.requests.lock().unwrap().push(request.clone());
        let usual = if at_store { self.stored(&request) } else { self.of_hub(&request) };
        let behaviour = Arc::clone(&self.behaviour.lock().unwrap());
        behaviour(&request, usual).send(stream)
    }

    fn of_hub(&self, request: &Request) -> Answer {
        if let Some(revision) = request.path.strip_prefix("/api/models/owner/name/revision/") {
            return match revision.strip_suffix("?blobs=true") {
                Some("main" | "v1" | COMMIT) => {
                    Answer::new(200, &self.list().to_string()).with("Content-Type", "application/json")
                }
                _ => Answer::new(404, "").with("X-Error-Code", "RevisionNotFound"),
            };
        }
        let place = format!("/owner/name/resolve/{COMMIT}/");
        let Some(file) = request.path.strip_prefix(&place) else {
            return Answer::new(401, "").with("X-Error-Code", "RepoNotFound");
        };
        let Some(content) = self.files.get(file) else {
            return Answer::new(404, "").with("X-Error-Code", "EntryNotFound");
        };
        let hash = hash(file, content);
        if !is_large(file) {
            return ranged(request, content).with("ETag", format!("\"{hash}\"")).with("X-Repo-Commit", COMMIT);
        }
        Answer::new(302, "Found")
            .with("Location", format!("http://{}/{file}?signature={SIGNATURE}", self.store))
            .with("ETag", "\"of-the-redirect\"")
            .with("X-Repo-Commit", COMMIT)
            .with("X-Linked-Etag", format!("\"{hash}\""))
            .with("X-Linked-Size", content.len())
    }

    fn stored(&self, request: &Request) -> Answer {
        let file = request.path[1..].split('?').next().unwrap_or_default();
        match self.files.get(file) {
            Some(content) if request.path.ends_with(SIGNATURE) => {
                ranged(request, content).with("ETag", "\"the-store's-own\"")
            }
            _ => Answer::new(403, ""),
        }
    }

    fn list(&self) -> Value {
        let entry = |(name, content): (&String, &Vec<u8>)| {
            let (hash, size) = (hash(name, content), content.len());
            match is_large(name) {
                true => json!({"rfilename": name, "size": size, "blobId": "0".repeat(40),
                    "lfs": {"sha256": hash, "size": size, "pointerSize": 130}}),
                false => json!({"rfilename": name, "size": size, "blobId": hash}),
            }
        };
        json!({"id": "owner/name", "sha": COMMIT, "siblings": self.files.iter().map(entry).collect::<Vec<_>>()})
    }
}

/// Whether the hub keeps a file in its store.
fn is_large(file: &str) -> bool {
    file.contains(".safetensors") || file.contains(".gguf")
}

fn hash(file: &str, content: &[u8]) -> String {
    let bytes = match is_large(file) {
        true => Sha256::digest(content).to_vec(),
        false => Sha1::new_with_prefix(format!("blob {}\0", content.len())).chain_update(content).finalize().to_vec(),
    };
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The content, or the part that was asked for.
fn ranged(request: &Request, content: &[u8]) -> Answer {
    let Some(range) = request.header("range").and_then(|range| range.strip_prefix("bytes=")) else {
        return Answer { status: 200, body: content.to_owned(), ..Answer::default() };
    };
    let (start, end) = range.split_once('-').unwrap();
    let (start, total) = (start.parse::<usize>().unwrap(), content.len());
    let end = end.parse().map_or(total, |end: usize| end + 1).min(total);
    if start >= end {
        return Answer::new(416, "").with("Content-Range", format!("bytes */{total}"));
    }
    let answer = Answer { status: 206, body: content[start..end].to_owned(), ..Answer::default() };
    answer.with("Content-Range", format!("bytes {start}-{}/{total}", end - 1))
}

impl Answer {
    fn send(self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} -\r\nConnection: close\r\n", self.status);
        if !self.unbounded {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        stream.write_all(&self.body[..self.cut.unwrap_or(self.body.len()).min(self.body.len())])?;
        stream.flush()
    }
}
