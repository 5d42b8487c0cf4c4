//! Translates WGSL to SPIR-V with the options that wgpu takes for a shader without runtime checks on Vulkan 1.3.

use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, ShaderStage};

/// A shader as the driver gets it.
pub struct Module {
    /// The words of the module.
    pub words: Vec<u32>,
    /// Binding numbers of group 0, ascending, and whether a uniform buffer is bound there.
    pub bindings: Vec<(u32, bool)>,
}

/// Translates the compute shader `wgsl`, whose entry point is `main`.
///
/// # Errors
/// What naga says if the text is no valid shader.
pub fn translate(wgsl: &str) -> Result<Module, String> {
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|error| error.emit_to_string(wgsl))?;
    let capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32 | Capabilities::SUBGROUP;
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .map_err(|error| error.emit_to_string(wgsl))?;
    let entry = spv::PipelineOptions { entry_point: "main".into(), shader_stage: ShaderStage::Compute };
    let words = spv::write_vec(&module, &info, &options(), Some(&entry)).map_err(|error| error.to_string())?;
    let mut bindings: Vec<_> = module
        .global_variables
        .iter()
        .filter_map(|(_, global)| Some((global.binding?.binding, global.space == AddressSpace::Uniform)))
        .collect();
    bindings.sort_unstable();
    Ok(Module { words, bindings })
}

fn options() -> spv::Options<'static> {
    let unchecked = BoundsCheckPolicy::Unchecked;
    spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::LABEL_VARYINGS,
        bounds_check_policies: BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..spv::Options::default()
    }
}
