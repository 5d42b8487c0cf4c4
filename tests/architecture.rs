//! The rules of ARCHITECTURE.md, read from the sources.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Modules of the core by floor. A module imports from its own floor's modules only if it is one of them.
const FLOORS: &[(&str, u32)] = &[
    ("error", 0),
    ("options", 0),
    ("format", 1),
    ("reference", 1),
    ("gpu", 2),
    ("analysis", 2),
    ("kernels", 3),
    ("self_test", 4),
    ("model", 5),
    ("marginal", 6),
    ("train", 6),
    ("decode", 7),
    ("bench", 8),
];

/// What stands above its importer on purpose, with the reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    // Kernels are checked by the self-test's own checks, over more shapes.
    ("kernels/tests", "self_test"),
    // Its tests run on every adapter, as those of kernels do.
    ("gpu/poll/tests", "kernels"),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src is readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every source file of the core: its path below `src`, with forward slashes, and its text.
fn core() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    let name = |path: &Path| path.strip_prefix(&root).expect("below src").to_string_lossy().replace('\\', "/");
    paths.iter().map(|path| (name(path), fs::read_to_string(path).expect("a source is readable"))).collect()
}

/// The same without what only tests compile.
fn core_without_tests() -> impl Iterator<Item = (String, String)> {
    let program = core().into_iter().filter(|(file, _)| !file.contains("tests"));
    program.map(|(file, text)| (file, text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()))
}

fn floor_of(module: &str) -> Option<u32> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

fn tokens(text: &str) -> Vec<TokenTree> {
    text.parse::<TokenStream>().expect("Rust").into_iter().collect()
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

/// The tokens after `::` at the start of `tokens`.
fn after_colons(tokens: &[TokenTree]) -> Option<&[TokenTree]> {
    (is_punct(tokens.first(), ':') && is_punct(tokens.get(1), ':')).then(|| &tokens[2..])
}

/// The first names of a path or of a tree of imports: `a` of `a::b`, `a` and `c` of `{a::b, c}`.
fn first_names(tokens: &[TokenTree], found: &mut Vec<String>) {
    match tokens.first() {
        Some(TokenTree::Ident(name)) => found.push(name.to_string()),
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
            let inner: Vec<TokenTree> = group.stream().into_iter().collect();
            inner.split(|token| is_punct(Some(token), ',')).for_each(|part| first_names(part, found));
        }
        _ => {}
    }
}

/// What stands first in every path below the crate's root: in imports, expressions, types and the arguments of macros.
fn below_root(tokens: &[TokenTree], found: &mut Vec<String>) {
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Ident(name) if name == "crate" => {
                if let Some(rest) = after_colons(&tokens[at + 1..]) {
                    first_names(rest, found);
                }
            }
            TokenTree::Group(group) => below_root(&group.stream().into_iter().collect::<Vec<_>>(), found),
            _ => {}
        }
    }
}

/// The module that each name at the crate's root comes from.
fn re_exports() -> BTreeMap<String, String> {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("lib.rs");
    let tokens = tokens(&lib);
    let mut modules = BTreeMap::new();
    for (at, token) in tokens.iter().enumerate() {
        let (TokenTree::Ident(word), Some(TokenTree::Ident(module))) = (token, tokens.get(at + 1)) else { continue };
        if word == "use" && floor_of(&module.to_string()).is_some() {
            let names = after_colons(&tokens[at + 2..]).expect("a path");
            let mut found = Vec::new();
            first_names(names, &mut found);
            modules.extend(found.into_iter().map(|name| (name, module.to_string())));
        }
    }
    modules
}

#[test]
fn imports_go_to_lower_floors() {
    let re_exports = re_exports();
    assert_eq!(re_exports.get("Engine").map(String::as_str), Some("decode"), "lib.rs was misread");
    let mut broken = Vec::new();
    for (file, text) in core() {
        let module = file.split(['/', '.']).next().unwrap_or_default();
        let Some(floor) = floor_of(module) else { continue };
        let mut names = Vec::new();
        below_root(&tokens(&text), &mut names);
        names.sort();
        names.dedup();
        for name in names {
            let imported = re_exports.get(&name).unwrap_or(&name);
            let higher = floor_of(imported).is_some_and(|other| other > floor);
            let excused = EXCEPTIONS.iter().any(|(of, what)| file.starts_with(of) && what == imported);
            if higher && !excused {
                broken.push(format!("src/{file} uses crate::{name}, of {imported}"));
            }
        }
    }
    assert!(broken.is_empty(), "imports from a higher floor:\n{}", broken.join("\n"));
}

#[test]
fn paths_are_found_wherever_they_stand() {
    let source = r#"
        use crate::{model::Engine, gpu, Error};
        fn f(x: crate::analysis::Rows) { println!("{}", crate::decode::LIMIT); }
        // crate::comment
        const TEXT: &str = "crate::text";
    "#;
    let mut found = Vec::new();
    below_root(&tokens(source), &mut found);
    assert_eq!(found, ["model", "gpu", "Error", "analysis", "decode"]);
}

#[test]
fn every_module_has_a_floor() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("lib.rs");
    for line in lib.lines() {
        if let Some(name) = line.trim_start_matches("pub ").strip_prefix("mod ") {
            let name = name.trim_end_matches(';');
            assert!(
                floor_of(name).is_some() || name == "default_model",
                "{name} has no floor in tests/architecture.rs"
            );
        }
    }
}

#[test]
fn the_core_knows_no_target() {
    for (file, text) in core() {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            let about_target = ["target_os", "target_arch", "target_family", "cfg(windows)", "cfg(unix)", "wasm32"];
            let is_code = !line.starts_with("//");
            let found = about_target.iter().find(|word| is_code && line.contains(*word) && line.contains("cfg"));
            assert!(found.is_none(), "src/{file}:{}: {line}", number + 1);
        }
    }
}

#[test]
fn the_core_starts_no_program() {
    for (file, text) in core_without_tests() {
        let found = ["std::process", "Command::new", "CARGO_MANIFEST_DIR"].iter().find(|word| text.contains(*word));
        assert!(found.is_none(), "src/{file}: {}", found.unwrap_or(&""));
    }
}

#[test]
fn messages_name_no_flag_of_the_command() {
    for (file, text) in core_without_tests() {
        let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
        for (number, line) in code {
            let flag =
                line.match_indices("--").find(|(at, _)| line[at + 2..].starts_with(|c: char| c.is_ascii_lowercase()));
            assert!(flag.is_none(), "src/{file}:{}: {line}", number + 1);
        }
    }
}

#[test]
fn only_the_gpu_floor_names_wgpu() {
    for (file, text) in core_without_tests().filter(|(file, _)| !file.starts_with("gpu/") && file != "lib.rs") {
        for (number, line) in text.lines().enumerate() {
            assert!(!line.contains("wgpu::"), "src/{file}:{}: {line}", number + 1);
        }
    }
}
