//! A web server whose response is the text while it is written: one engine, a session for each request.
//!
//! `cargo run --release --example server -- [ADDRESS]`, then `curl -N --data "Once upon a time" http://127.0.0.1:8080`
//!
//! It speaks just enough HTTP for that, so that nothing hides how tokens travel. Frameworks take the same stream: a
//! `Generation` is a `futures::Stream` and can be sent between threads.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use foretoken::{Engine, EngineOptions, GenerateOptions, Gpu, GpuOptions, Result, Sampling};
use futures_util::StreamExt;

/// The longest prompt that is read, in bytes.
const MAX_PROMPT: usize = 16 << 10;

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let engine = pollster::block_on(load())?;
    let listener = TcpListener::bind(address)?;
    println!("listening on http://{}", listener.local_addr()?);
    for stream in listener.incoming() {
        // Clones share the model, and sessions take turns on the GPU.
        let (stream, engine) = (stream?, engine.clone());
        thread::spawn(move || {
            if let Err(error) = serve(stream, &engine) {
                eprintln!("a request ended early: {error}");
            }
        });
    }
    Ok(())
}

async fn load() -> Result<Engine> {
    let gpu = Gpu::open(&GpuOptions::default()).await?;
    Engine::load(&gpu, &foretoken::default_model(), &EngineOptions::default(), &mut |_| {}).await
}

fn serve(mut stream: TcpStream, engine: &Engine) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let Some(prompt) = prompt(&stream)? else {
        let refusal = format!("POST a prompt of 1 to {MAX_PROMPT} bytes\n");
        return write!(
            stream,
            "HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{refusal}",
            refusal.len()
        );
    };
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")?;
    pollster::block_on(respond(&mut stream, engine, &prompt))?;
    // The empty chunk ends the response.
    stream.write_all(b"0\r\n\r\n")
}

/// Sends each piece of text as a chunk. Where the client has gone, writing fails, and the generation ends with it.
async fn respond(stream: &mut TcpStream, engine: &Engine, prompt: &str) -> io::Result<()> {
    let ids = engine.tokenizer().and_then(|tokenizer| tokenizer.encode(prompt, true)).map_err(io::Error::other)?;
    let sampling = Sampling::default().temperature(0.7).top_p(0.95);
    let options = GenerateOptions::default().max_tokens(200).sampling(sampling);
    let mut session = engine.session().map_err(io::Error::other)?;
    let mut tokens = session.generate(&ids, &options, &mut |_| {}).await.map_err(io::Error::other)?;
    while let Some(token) = StreamExt::next(&mut tokens).await {
        let text = token.map_err(io::Error::other)?.text;
        if !text.is_empty() {
            write!(stream, "{:x}\r\n{text}\r\n", text.len())?;
        }
    }
    Ok(())
}

/// The body of a request; `None` if it is none that is served here.
fn prompt(stream: &TcpStream) -> io::Result<Option<String>> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    // Longer than the head of any sound request.
    let mut head = reader.by_ref().take(16 << 10);
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    if !(1..=MAX_PROMPT).contains(&length) {
        return Ok(None);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(String::from_utf8(body).ok())
}
