//! `foretoken-bindgen WASM FOLDER`: what `wasm-bindgen --target web` does, of exactly the version in Cargo.toml.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    // The first is the program's own name.
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [wasm, folder] = &arguments[..] else { return Err("expected a wasm file and a folder".into()) };
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    Ok(bindgen.input_path(wasm).out_name("foretoken").web(true)?.typescript(true).generate(folder)?)
}
