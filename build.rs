//! Takes the comments out of the shaders that the library carries: browsers download them. Lines keep their numbers.

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=shaders");
    let out = env::var_os("OUT_DIR").expect("cargo names a folder");
    for folder in ["shaders", "shaders/lib"] {
        let to = Path::new(&out).join(folder);
        fs::create_dir_all(&to).expect("the folder can be made");
        for entry in fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "wgsl") {
                let text = fs::read_to_string(&path).expect("a shader is text");
                let name = path.file_name().expect("a file has a name");
                fs::write(to.join(name), without_comments(&text)).expect("the file can be written");
            }
        }
    }
}

/// The same lines, empty where there was a comment; what the composer reads stays.
fn without_comments(text: &str) -> String {
    let is_comment = |line: &str| {
        let line = line.trim_start();
        line.starts_with("//") && !line.starts_with("//:") && !line.starts_with("//! use ")
    };
    text.lines().map(|line| if is_comment(line) { "\n".to_owned() } else { format!("{line}\n") }).collect()
}
