//! The rules of the house, read from the sources.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the core by floor. A module imports from its own floor's modules only if it is one of them.
const FLOORS: &[(&str, u32)] = &[
    ("error", 0),
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
    // Engine::session is how a session is started.
    ("model/engine.rs", "decode"),
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

#[test]
fn imports_go_to_lower_floors() {
    let mut broken = Vec::new();
    for (file, text) in core() {
        let module = file.split(['/', '.']).next().unwrap_or_default();
        let Some(floor) = floor_of(module) else { continue };
        for line in text.lines().map(str::trim) {
            let Some(path) = line.strip_prefix("use crate::").or_else(|| line.strip_prefix("pub use crate::")) else {
                continue;
            };
            let imported = path.split([':', ';', '{', ',']).next().unwrap_or_default().trim();
            let higher = floor_of(imported).is_some_and(|other| other > floor);
            let excused = EXCEPTIONS.iter().any(|(of, what)| file.starts_with(of) && *what == imported);
            if higher && !excused {
                broken.push(format!("{file}: {line}"));
            }
        }
    }
    assert!(broken.is_empty(), "imports from a higher floor:\n{}", broken.join("\n"));
}

#[test]
fn every_module_has_a_floor() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("lib.rs");
    for line in lib.lines() {
        if let Some(name) = line.trim_start_matches("pub ").strip_prefix("mod ") {
            let name = name.trim_end_matches(';');
            assert!(floor_of(name).is_some() || name == "default_model", "{name} has no floor in tests/house.rs");
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
fn only_the_gpu_floor_creates_wgpu_objects() {
    let calls = [
        ".create_buffer(",
        ".create_bind_group(",
        ".create_compute_pipeline(",
        ".create_shader_module",
        "begin_compute_pass(",
    ];
    for (file, text) in core() {
        let found = calls.iter().find(|call| text.contains(*call) && !file.starts_with("gpu/"));
        assert!(found.is_none(), "src/{file} calls {}", found.unwrap_or(&""));
    }
}
