//! Every variant is valid WGSL within WebGPU's default limits, and translates to SPIR-V, MSL and HLSL.

use std::collections::BTreeSet;

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module};

use crate::gpu::Variant;
use crate::gpu::composer::{self, Linked};
use crate::kernels::declared::all_variants;

/// The parsed and validated module of a variant, or what is wrong with it and where.
pub(super) fn validated(variant: &Variant) -> Result<(Module, ModuleInfo), String> {
    let linked = composer::link(variant);
    let fail = |location: Option<naga::SourceLocation>, message: String| {
        Err(format!("{}: {}: {message}", place(&linked, location), variant.label()))
    };
    let module = match naga::front::wgsl::parse_str(&linked.wgsl) {
        Ok(module) => module,
        Err(error) => return fail(error.location(&linked.wgsl), error.message().to_owned()),
    };
    let uses_subgroups = variant.pieces.iter().any(|(_, piece)| piece.ends_with("_subgroup"));
    // WebGPU always has the conversions of packed halves.
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    capabilities.set(Capabilities::SUBGROUP, uses_subgroups);
    match Validator::new(ValidationFlags::all(), capabilities).validate(&module) {
        Ok(info) => Ok((module, info)),
        Err(error) => fail(error.location(&linked.wgsl), error.emit_to_string(&linked.wgsl)),
    }
}

fn place(linked: &Linked, location: Option<naga::SourceLocation>) -> String {
    location.map_or("shaders/?".to_owned(), |location| linked.origin(location.line_number as usize))
}

fn translate(module: &Module, info: &ModuleInfo) -> Result<(), String> {
    let options = spv::Options::default();
    spv::write_vec(module, info, &options, None).map_err(|error| format!("SPIR-V: {error}"))?;
    let options = msl::Options { lang_version: (2, 4), ..msl::Options::default() };
    msl::write_string(module, info, &options, &msl::PipelineOptions::default())
        .map_err(|error| format!("MSL: {error}"))?;
    let options = hlsl::Options { shader_model: hlsl::ShaderModel::V6_0, ..hlsl::Options::default() };
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
        .write(module, info, None)
        .map_err(|error| format!("HLSL: {error}"))?;
    Ok(())
}

/// Checks the limits that WebGPU guarantees everywhere, and what Tint refuses although naga takes it.
fn check_limits(module: &Module) -> Result<(), String> {
    let entry = match module.entry_points.as_slice() {
        [entry] => entry,
        entries => return Err(format!("{} entry points, not 1", entries.len())),
    };
    let globals = || module.global_variables.iter().map(|(_, global)| global);
    let storage = globals().filter(|global| matches!(global.space, AddressSpace::Storage { .. })).count();
    let shared: u32 = globals()
        .filter(|global| global.space == AddressSpace::WorkGroup)
        .map(|global| module.types[global.ty].inner.size(module.to_ctx()))
        .sum();
    let threads: u32 = entry.workgroup_size.iter().product();
    let within = |what: &str, used: u32, limit: u32| {
        if used <= limit { Ok(()) } else { Err(format!("{what}: {used}, but WebGPU guarantees {limit}")) }
    };
    within("storage buffers", storage as u32, 8)?;
    within("bytes of workgroup memory", shared, 16 << 10)?;
    within("threads of a workgroup", threads, 256)
}

fn check(variant: &Variant) -> Result<(), String> {
    let (module, info) = validated(variant)?;
    let within = |result: Result<(), String>| result.map_err(|error| format!("{}: {error}", variant.label()));
    within(check_limits(&module))?;
    within(translate(&module, &info))
}

#[test]
fn every_variant_is_valid_and_translates_to_every_back_end() {
    let variants: Vec<Variant> = all_variants().into_iter().collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let errors: Vec<String> = std::thread::scope(|scope| {
        // Each thread takes its share of the variants, one in so many as there are threads.
        let work = |part: usize| variants.iter().skip(part).step_by(threads).filter_map(|v| check(v).err()).collect();
        let parts: Vec<_> = (0..threads).map(|part| scope.spawn(move || -> Vec<String> { work(part) })).collect();
        parts.into_iter().flat_map(|part| part.join().expect("no panic")).collect()
    });
    assert!(
        errors.is_empty(),
        "{} of {} variants:\n{}",
        errors.len(),
        variants.len(),
        errors[..errors.len().min(5)].join("\n")
    );
    println!("{} variants", variants.len());
}

#[test]
fn no_shader_file_is_left_out() {
    let linked: BTreeSet<&str> = all_variants().iter().flat_map(composer::files).collect();
    let missing: Vec<_> = composer::names().filter(|name| !linked.contains(name)).collect();
    assert!(missing.is_empty(), "no variant in all_variants() links {missing:?}");
}

#[test]
fn shaders_need_no_enable_line() {
    for variant in all_variants() {
        let wgsl = composer::link(&variant).wgsl;
        let line = wgsl.lines().find(|line| ["enable ", "requires "].iter().any(|word| line.trim().starts_with(word)));
        assert_eq!(line, None, "{}", variant.label());
    }
}

#[test]
fn an_error_names_the_file_and_line() {
    let broken = Variant::of("embed").piece("weight", "weight_f16");
    let linked = composer::link(&broken);
    let line = 1 + linked.wgsl.lines().position(|line| line.contains("unpack2x16float(words.x)")).expect("linked");
    let error = naga::front::wgsl::parse_str(&linked.wgsl.replace("words.x", "missing")).expect_err("broken");
    let location = error.location(&linked.wgsl);
    assert_eq!(location.map(|l| l.line_number as usize), Some(line));
    assert_eq!(place(&linked, location), "shaders/lib/weight_f16.wgsl:6");
}
