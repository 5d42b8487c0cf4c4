//! Finding, describing and picking adapters, and asking one for a device.

use crate::{Error, ErrorKind, Result};

/// An adapter as the user sees it. Limits are those of the device once it is open.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct AdapterSummary {
    /// Position in [`Gpu::adapters`](crate::Gpu::adapters).
    pub index: usize,
    /// The name the driver gives.
    pub name: String,
    /// `Vulkan`, `Metal`, `Dx12` or `BrowserWebGpu`.
    pub backend: String,
    /// `DiscreteGpu`, `IntegratedGpu`, `VirtualGpu`, `Cpu` or `Other`.
    pub device_type: String,
    /// The driver's name.
    pub driver: String,
    /// The driver's version.
    pub driver_info: String,
    /// Runs on the processor: a correctness tool, not a fast one.
    pub software: bool,
    /// Has f16 arithmetic. (f16 weights need none.)
    pub f16: bool,
    /// Smallest and largest subgroup, if the adapter has subgroups.
    pub subgroup: Option<(u32, u32)>,
    /// Can time passes.
    pub timestamps: bool,
    /// The largest buffer, in bytes.
    pub max_buffer_bytes: u64,
    /// The largest part of a buffer that a kernel can see, in bytes.
    pub max_binding_bytes: u64,
    /// Workgroup memory, in bytes.
    pub max_workgroup_storage_bytes: u32,
    /// Threads of a workgroup.
    pub max_threads_per_workgroup: u32,
    /// Storage buffers of a kernel.
    pub max_storage_buffers: u32,
}

impl AdapterSummary {
    /// Of an adapter that any buffer fits, for a dry device where no adapter is chosen yet.
    pub(crate) fn unlimited() -> Self {
        Self {
            index: 0,
            name: "unlimited".to_owned(),
            backend: String::new(),
            device_type: String::new(),
            driver: String::new(),
            driver_info: String::new(),
            software: false,
            f16: false,
            subgroup: None,
            timestamps: false,
            max_buffer_bytes: u64::MAX,
            max_binding_bytes: u64::MAX,
            max_workgroup_storage_bytes: u32::MAX,
            max_threads_per_workgroup: u32::MAX,
            max_storage_buffers: u32::MAX,
        }
    }

    pub(super) fn of(index: usize, adapter: &wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let features = adapter.features();
        let mut summary = Self {
            index,
            backend: format!("{:?}", info.backend),
            device_type: format!("{:?}", info.device_type),
            software: info.device_type == wgpu::DeviceType::Cpu || names_software(&info.name),
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroup: features
                .contains(wgpu::Features::SUBGROUP)
                .then_some((info.subgroup_min_size, info.subgroup_max_size)),
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            // Browsers may keep it to themselves.
            name: if info.name.is_empty() { "unnamed adapter".to_owned() } else { info.name },
            driver: info.driver,
            driver_info: info.driver_info,
            max_buffer_bytes: 0,
            max_binding_bytes: 0,
            max_workgroup_storage_bytes: 0,
            max_threads_per_workgroup: 0,
            max_storage_buffers: 0,
        };
        summary.set_limits(&adapter.limits());
        summary
    }

    pub(super) fn set_limits(&mut self, limits: &wgpu::Limits) {
        self.max_buffer_bytes = limits.max_buffer_size;
        self.max_binding_bytes = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        self.max_workgroup_storage_bytes = limits.max_compute_workgroup_storage_size;
        self.max_threads_per_workgroup = limits.max_compute_invocations_per_workgroup;
        self.max_storage_buffers = limits.max_storage_buffers_per_shader_stage;
    }

    /// The one subgroup size of this adapter, if it has one.
    pub fn fixed_subgroup(&self) -> Option<u32> {
        self.subgroup.and_then(|(low, high)| (low == high && low > 1).then_some(low))
    }

    /// Lower is likelier to be fast.
    fn rank(&self) -> usize {
        if self.software {
            return 5;
        }
        ["DiscreteGpu", "IntegratedGpu", "VirtualGpu"].iter().position(|kind| *kind == self.device_type).unwrap_or(3)
    }
}

impl std::fmt::Display for AdapterSummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, {})", self.name, self.backend, self.device_type)
    }
}

/// Browsers do not report a device type; software adapters go by these names.
fn names_software(name: &str) -> bool {
    let name = name.to_lowercase();
    ["llvmpipe", "swiftshader", "lavapipe", "basic render"].iter().any(|part| name.contains(part))
}

pub(super) async fn enumerate() -> Vec<(wgpu::Adapter, AdapterSummary)> {
    if wgpu::Instance::enabled_backend_features().is_empty() {
        return Vec::new();
    }
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = instance.enumerate_adapters(wgpu::Backends::all()).await;
    adapters
        .into_iter()
        .enumerate()
        .map(|(index, adapter)| {
            let summary = AdapterSummary::of(index, &adapter);
            (adapter, summary)
        })
        .collect()
}

pub(super) fn pick(adapters: &[AdapterSummary], wanted: Option<&str>) -> Result<(usize, String)> {
    let list = || adapters.iter().map(|a| format!("{}: {a}", a.index)).collect::<Vec<_>>().join("; ");
    if adapters.is_empty() {
        return Err(Error::new(
            ErrorKind::Adapter,
            "no GPU adapter was found. Install a Vulkan driver (on Debian without a GPU: apt-get install \
             mesa-vulkan-drivers libvulkan1), or use a browser with WebGPU switched on",
        ));
    }
    let Some(wanted) = wanted.map(str::trim).filter(|wanted| !wanted.is_empty()) else {
        let best = adapters.iter().min_by_key(|a| (a.rank(), a.index)).map_or(0, |a| a.index);
        let reason = if adapters.len() == 1 { "the only adapter" } else { "the likeliest fastest by its type" };
        return Ok((best, reason.to_owned()));
    };
    if let Ok(index) = wanted.parse::<usize>()
        && index < adapters.len()
    {
        return Ok((index, format!("asked for by index {index}")));
    }
    let lower = wanted.to_lowercase();
    let fits = |a: &&AdapterSummary| {
        [&a.name, &a.backend, &a.driver, &a.driver_info].iter().any(|text| text.to_lowercase().contains(&lower))
    };
    adapters
        .iter()
        .filter(fits)
        .min_by_key(|a| (a.rank(), a.index))
        .map(|a| (a.index, format!("asked for by '{wanted}'")))
        .ok_or_else(|| Error::new(ErrorKind::Adapter, format!("no adapter fits '{wanted}'; there are: {}", list())))
}

pub(super) async fn request_device(
    adapter: &wgpu::Adapter,
    summary: &AdapterSummary,
    webgpu_limits: bool,
) -> Result<(wgpu::Device, wgpu::Queue)> {
    let mut required_limits = wgpu::Limits::default();
    if !webgpu_limits {
        let offered = adapter.limits();
        required_limits.max_buffer_size = offered.max_buffer_size;
        required_limits.max_storage_buffer_binding_size = offered.max_storage_buffer_binding_size;
    }
    let mut required_features = wgpu::Features::empty();
    if summary.fixed_subgroup().is_some() {
        required_features |= wgpu::Features::SUBGROUP;
    }
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("foretoken"),
        required_features,
        required_limits,
        ..wgpu::DeviceDescriptor::default()
    };
    adapter.request_device(&descriptor).await.map_err(|error| {
        Error::new(
            ErrorKind::Adapter,
            format!("{summary} gives no device with WebGPU's default limits: {error}; choose another adapter"),
        )
        .caused_by(error)
    })
}

/// wgpu's late errors as ours.
pub(super) fn translate(error: wgpu::Error) -> Error {
    match error {
        wgpu::Error::OutOfMemory { .. } => Error::new(
            ErrorKind::OutOfMemory,
            "the GPU ran out of memory; use a smaller model, a shorter context, or close other programs that use the GPU",
        ),
        wgpu::Error::Validation { description, .. } => Error::new(
            ErrorKind::Device,
            format!("the GPU driver refused a command (please report this): {description}"),
        ),
        wgpu::Error::Internal { description, .. } => {
            Error::new(ErrorKind::Device, format!("the GPU driver failed: {description}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(index: usize, name: &str, device_type: &str, software: bool) -> AdapterSummary {
        let (name, device_type) = (name.to_owned(), device_type.to_owned());
        AdapterSummary { index, name, device_type, backend: "Vulkan".into(), software, ..AdapterSummary::unlimited() }
    }

    #[test]
    fn a_discrete_gpu_is_preferred_and_software_comes_last() {
        let adapters = [
            adapter(0, "llvmpipe", "Cpu", true),
            adapter(1, "Small", "IntegratedGpu", false),
            adapter(2, "Big", "DiscreteGpu", false),
        ];
        assert_eq!(pick(&adapters, None).expect("some").0, 2);
        assert_eq!(pick(&adapters, Some("LLVM")).expect("by name").0, 0);
        assert_eq!(pick(&adapters, Some("1")).expect("by index").0, 1);
        let error = pick(&adapters, Some("nvidia")).expect_err("no such adapter");
        assert_eq!(error.kind(), ErrorKind::Adapter);
        assert!(error.to_string().contains("llvmpipe"), "{error}");
        assert!(pick(&[], None).expect_err("none").to_string().contains("mesa-vulkan-drivers"));
    }
}
