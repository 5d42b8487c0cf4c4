//! A compiled kernel: its pipeline, and the layout of its one bind group, read from the linked shader.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::{fs, io};

use super::composer::{self, Variant};
use super::{Gpu, count, lock};

/// A variant, compiled.
pub(crate) struct Kernel {
    /// `None` on a dry device.
    pub(super) compiled: Option<Compiled>,
    /// The binding numbers in ascending order.
    pub bindings: Vec<u32>,
    pub label: String,
    /// Whether it was dispatched yet: some drivers make machine code only then.
    pub dispatched: AtomicBool,
}

/// What the driver makes of a shader.
pub(super) struct Compiled {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

impl Gpu {
    /// The kernel of `variant`, compiled on first use. A dry device only notes that it was asked for.
    pub(crate) fn kernel(&self, variant: &Variant) -> Arc<Kernel> {
        let mut kernels = lock(&self.inner.kernels);
        if let Some(kernel) = kernels.get(variant) {
            return Arc::clone(kernel);
        }
        let (label, wgsl) = (variant.label(), composer::link(variant).wgsl);
        if let Some(folder) = &self.inner.dump
            && let Err(error) = dump(folder, &label, &wgsl)
        {
            tracing::warn!("{label} was not written to {}: {error}", folder.display());
        }
        let kernel = Arc::new(self.compile(label, wgsl));
        kernels.insert(variant.clone(), Arc::clone(&kernel));
        kernel
    }

    /// The variants asked for so far, which are compiled unless the device is dry.
    pub(crate) fn variants(&self) -> Vec<Variant> {
        lock(&self.inner.kernels).keys().cloned().collect()
    }

    /// Labels of the kernels that were compiled and never dispatched.
    #[cfg(test)]
    pub(crate) fn idle_kernels(&self) -> Vec<String> {
        let kernels = lock(&self.inner.kernels);
        let idle = kernels.values().filter(|kernel| !kernel.dispatched.load(std::sync::atomic::Ordering::Relaxed));
        idle.map(|kernel| kernel.label.clone()).collect()
    }

    /// Compiles WGSL that follows the convention of `shaders/`: a `main` and one line a binding, all in group 0.
    pub(crate) fn compile(&self, label: String, wgsl: String) -> Kernel {
        let bindings = bindings(&wgsl);
        let compiled = self.inner.open.as_ref().map(|open| self.pipeline(&open.device, &label, wgsl, &bindings));
        let bindings = bindings.iter().map(|(binding, _)| *binding).collect();
        Kernel { compiled, bindings, label, dispatched: AtomicBool::new(false) }
    }

    fn pipeline(
        &self,
        device: &wgpu::Device,
        label: &str,
        wgsl: String,
        bindings: &[(u32, wgpu::BufferBindingType)],
    ) -> Compiled {
        count(&self.inner.counters.pipelines);
        let label = Some(label);
        let entries: Vec<_> = bindings.iter().map(|&(binding, ty)| layout_entry(binding, ty)).collect();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let descriptor = wgpu::ShaderModuleDescriptor { label, source: wgpu::ShaderSource::Wgsl(wgsl.into()) };
        let module = if self.inner.checked_shaders {
            device.create_shader_module(descriptor)
        } else {
            trusted_module(device, descriptor)
        };
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..wgpu::PipelineCompilationOptions::default()
            },
            cache: None,
        });
        Compiled { pipeline, layout }
    }
}

#[allow(unsafe_code, reason = "only this crate's own shaders come here; tests also run them with bounds checks")]
fn trusted_module(device: &wgpu::Device, descriptor: wgpu::ShaderModuleDescriptor<'_>) -> wgpu::ShaderModule {
    // SAFETY: every index in our shaders is bounded by parameters that the kernels' callers check, ids of tokens
    // are checked against the vocabulary by the host or produced by `sample`, and the test suite also runs every
    // kernel with the checks on.
    unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
}

/// Writes a shader to a file of its name.
fn dump(folder: &Path, label: &str, wgsl: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join(format!("{}.wgsl", label.replace([' ', '/'], "-"))), wgsl)
}

fn layout_entry(binding: u32, ty: wgpu::BufferBindingType) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    }
}

/// The bindings a linked shader declares, ascending. One line each, by the convention of `shaders/`.
fn bindings(wgsl: &str) -> Vec<(u32, wgpu::BufferBindingType)> {
    let mut found: Vec<_> = wgsl
        .lines()
        .filter_map(|line| {
            let (number, declaration) = line.strip_prefix("@group(0) @binding(")?.split_once(") var<")?;
            let ty = match declaration.split('>').next()? {
                "uniform" => wgpu::BufferBindingType::Uniform,
                "storage, read" => wgpu::BufferBindingType::Storage { read_only: true },
                "storage, read_write" => wgpu::BufferBindingType::Storage { read_only: false },
                _ => return None,
            };
            Some((number.parse().ok()?, ty))
        })
        .collect();
    found.sort_by_key(|(binding, _)| *binding);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shader_is_written_under_its_name() {
        let temp = tempfile::tempdir().expect("a folder");
        let variant = Variant::of("embed").piece("weight", "weight_f16").constant("LANES", 64);
        let wgsl = composer::link(&variant).wgsl;
        dump(&temp.path().join("new"), &variant.label(), &wgsl).expect("it is written");
        let written = fs::read_to_string(temp.path().join("new/embed-weight_f16-LANES=64.wgsl")).expect("the file");
        assert!(written == wgsl && written.contains("fn main("));
    }
}
