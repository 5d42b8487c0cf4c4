//! Mesa's RADV as a compiler. The family of its null hardware is a variable of the environment, so each is compiled for in
//! processes of its own, which also share the work.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs, thread};

use crate::figures::{Measured, measure, of_row};
use crate::isa::{self, HotLoop};
use crate::shaders;
use crate::spirv::translate;
use crate::table::{Key, Row, Table};
use crate::vulkan::Compiler;

/// A generation of cards.
pub struct Family {
    pub name: &'static str,
    /// What Mesa's versions call a card of it.
    cards: &'static [&'static str],
}

/// The families that are compiled for.
pub const FAMILIES: [Family; 2] =
    [Family { name: "RDNA2", cards: &["NAVI21"] }, Family { name: "RDNA3", cards: &["GFX1100", "NAVI31"] }];

/// Where Vulkan's loader looks for the files of drivers.
const FOLDERS: [&str; 3] = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];

/// What a process has compiled: the number of a shader, and its figures.
type Part = Vec<(usize, Measured)>;

/// The driver.
pub struct Radv {
    /// Its files, of every architecture that there is, as the loader takes them.
    files: String,
    /// What it calls a card of each of [`FAMILIES`].
    cards: Vec<&'static str>,
    version: String,
}

impl Radv {
    /// Looks in `folder`, or where the loader does.
    ///
    /// # Errors
    /// Where there is no such driver, or it offers no null hardware.
    pub fn find(folder: Option<&Path>) -> Result<Self, String> {
        let folders = folder.map_or_else(|| FOLDERS.map(PathBuf::from).to_vec(), |folder| vec![folder.to_owned()]);
        let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut files: Vec<_> = paths.filter(|path| is_radv(path)).map(|path| path.display().to_string()).collect();
        if files.is_empty() {
            return Err(
                "no file radeon_icd*.json of Mesa's RADV was found; Debian's package is mesa-vulkan-drivers".to_owned()
            );
        }
        files.sort();
        let mut radv = Self { files: files.join(":"), cards: Vec::new(), version: String::new() };
        for family in &FAMILIES {
            let (card, version) = radv.probe(family)?;
            radv.cards.push(card);
            radv.version = version;
        }
        Ok(radv)
    }

    /// Compiles every shader for every family.
    ///
    /// # Errors
    /// Where a shader is refused; the process in question has said why.
    pub fn table(&self) -> Result<Table, String> {
        let parts = (thread::available_parallelism().map_or(1, usize::from) / FAMILIES.len()).max(1);
        let start = |part: usize, card| self.command(card, &["compile", &part.to_string(), &parts.to_string()]).spawn();
        let mut children = Vec::new();
        for (family, card) in FAMILIES.iter().zip(&self.cards) {
            for part in 0..parts {
                let child = start(part, card).map_err(|error| format!("this program cannot start itself: {error}"))?;
                children.push((family.name, child));
            }
        }
        let mut rows: BTreeMap<Key, Vec<Measured>> = BTreeMap::new();
        let shaders = shaders::all();
        for (family, child) in children {
            for (number, measured) in read_part(family, child)? {
                let shader = &shaders[number];
                let key = Key { family: family.to_owned(), sets: shader.sets.clone(), kernel: shader.kernel.clone() };
                rows.entry(key).or_default().push(measured);
            }
        }
        let row = |shaders: Vec<Measured>| Row { shaders: shaders.len() as u64, figures: of_row(&shaders), reason: 0 };
        let rows = rows.into_iter().map(|(key, shaders)| (key, row(shaders))).collect();
        Ok(Table { driver: self.version.clone(), reasons: Vec::new(), rows })
    }

    /// Prints the instructions of the shader `label`.
    ///
    /// # Errors
    /// Where there is no such shader, or the driver refuses it.
    pub fn print_isa(&self, family: &str, label: &str) -> Result<(), String> {
        let found = FAMILIES.iter().zip(&self.cards).find(|(found, _)| found.name == family);
        let (_, card) = found.ok_or_else(|| format!("no family '{family}'"))?;
        let status = self.command(card, &["show", label]).stdout(Stdio::inherit()).status();
        let done = status.is_ok_and(|status| status.success());
        if done { Ok(()) } else { Err(format!("'{label}' was not compiled for {family}: see above")) }
    }

    /// The name that this version of Mesa has for a card of a family, and the driver's version.
    fn probe(&self, family: &Family) -> Result<(&'static str, String), String> {
        let mut said = String::new();
        for card in family.cards {
            let output = self.command(card, &["probe"]).stderr(Stdio::piped()).output();
            let output = output.map_err(|error| format!("this program cannot start itself: {error}"))?;
            if output.status.success() {
                return Ok((card, String::from_utf8_lossy(&output.stdout).trim().to_owned()));
            }
            said += &String::from_utf8_lossy(&output.stderr);
        }
        let (files, cards) = (&self.files, family.cards.join(" or "));
        Err(format!("the driver of {files} offers no null hardware {cards} ({}):\n{}", family.name, said.trim()))
    }

    /// This program, as one that sees a certain card.
    fn command(&self, card: &str, arguments: &[&str]) -> Command {
        let program = env::current_exe().unwrap_or_else(|_| env::args_os().next().unwrap_or_default().into());
        let mut command = Command::new(&program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        // What changes the code that the driver makes.
        for name in ["RADV_DEBUG", "RADV_PERFTEST", "ACO_DEBUG"] {
            command.env_remove(name);
        }
        // Mesa keeps what it has compiled, by all that it depends on: the next time only shaders that have changed take long.
        command
            .env("RADV_FORCE_FAMILY", card)
            .env("MESA_SHADER_CACHE_DIR", program.with_file_name("foretoken-amd-cache"));
        // Mesa's layer of this name complains about a missing Wayland server at every start.
        command.env("VK_DRIVER_FILES", &self.files).env("VK_ICD_FILENAMES", &self.files).env("NODEVICE_SELECT", "1");
        command
    }
}

fn is_radv(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("radeon_icd") && name.ends_with(".json")
}

fn read_part(family: &str, child: Child) -> Result<Part, String> {
    let failed = |why: String| format!("compiling for {family}: {why}");
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("the process ended with {}: see above", output.status)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(format!("the process wrote no figures: {error}")))
}

/// In a process of one card: prints the driver's version.
pub fn probe() -> Result<(), String> {
    println!("{}", open()?.driver);
    Ok(())
}

/// In a process of one card: compiles every `parts`-th shader, from number `part` on, and prints their figures.
pub fn compile(part: usize, parts: usize) -> Result<(), String> {
    let compiler = open()?;
    let mut found = Part::new();
    for (number, shader) in shaders::all().iter().enumerate().skip(part).step_by(parts) {
        let figures = translate(&shader.wgsl)
            .and_then(|module| compiler.compile(&module, shader.shown))
            .and_then(|compiled| measure(&compiled));
        found.push((number, figures.map_err(|error| format!("{}: {error}", shader.label))?));
    }
    println!("{}", serde_json::to_string(&found).map_err(|error| error.to_string())?);
    Ok(())
}

/// In a process of one card: prints the statistics and instructions of a shader, or of a file of WGSL.
pub fn show(label: &str) -> Result<(), String> {
    let (name, wgsl) = if label.ends_with(".wgsl") {
        let wgsl = fs::read_to_string(label).map_err(|error| format!("{label} cannot be read: {error}"))?;
        (label.to_owned(), wgsl)
    } else {
        let shaders = shaders::all();
        let named = |shader: &&shaders::Shader| shader.label == label || (shader.shown && shader.kernel == label);
        let shader = shaders.iter().find(named).ok_or_else(|| unknown(label, &shaders))?;
        (shader.label.clone(), shader.wgsl.clone())
    };
    let compiled = open()?.compile(&translate(&wgsl)?, true)?;
    println!("{name}\n");
    for (name, value) in &compiled.statistics {
        println!("{name}: {value}");
    }
    let isa = compiled.isa.unwrap_or_default();
    let HotLoop { bytes, scalar_loads } = isa::hot_loop(&isa)?;
    println!("bytes: {bytes}\nscalar loads: {scalar_loads}\n\n{isa}");
    Ok(())
}

fn unknown(label: &str, shaders: &[shaders::Shader]) -> String {
    let first = label.split(' ').next().unwrap_or_default();
    let near: Vec<_> = shaders.iter().filter(|shader| shader.shown && shader.kernel.starts_with(first)).collect();
    let near: Vec<_> = near.iter().map(|shader| format!("  {}", shader.kernel)).collect();
    format!("no shader is called '{label}'; take a kernel of the table or a shader's own name:\n{}", near.join("\n"))
}

/// Opens the card, if it is one that runs nothing: nothing here is meant for a real one.
fn open() -> Result<Compiler, String> {
    let compiler = Compiler::open()?;
    let null = compiler.card.starts_with("Null hardware");
    if null { Ok(compiler) } else { Err(format!("'{}' is no null hardware", compiler.card)) }
}
