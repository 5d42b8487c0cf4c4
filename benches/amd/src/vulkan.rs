//! The driver through plain Vulkan: wgpu cannot open a device that runs nothing.

use std::ffi::c_char;

use ash::{Device, Entry, Instance, ext, khr, vk};

use crate::spirv::Module;

/// What the driver tells of a compiled shader.
pub struct Compiled {
    /// Its statistics by name.
    pub statistics: Vec<(String, u64)>,
    /// The instructions, as the driver's disassembler writes them, where they were asked for: that takes as long as compiling.
    pub isa: Option<String>,
}

/// A device of RADV's null hardware.
pub struct Compiler {
    device: Device,
    executables: khr::pipeline_executable_properties::Device,
    instance: Instance,
    /// The card, as the driver calls it.
    pub card: String,
    /// The driver and its version.
    pub driver: String,
    // The functions above are of the library that it holds.
    _entry: Entry,
}

/// A call that failed.
fn failed(call: &str) -> impl Fn(vk::Result) -> String + '_ {
    move |result| format!("{call}: {result}")
}

#[allow(unsafe_code, reason = "Vulkan is C: every call is unsafe to Rust")]
impl Compiler {
    /// Opens the first device that the loader finds.
    ///
    /// # Errors
    /// Where there is no Vulkan loader, no device, or one that does not tell of compiled shaders.
    pub fn open() -> Result<Self, String> {
        // SAFETY: the loader is the system's, and what is made of it is kept no longer than it: see `drop`. Every structure is
        // filled as the specification asks, and outlives the call that it is handed to.
        unsafe {
            let entry = Entry::load().map_err(|error| format!("no Vulkan loader: {error}"))?;
            let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let create = vk::InstanceCreateInfo::default().application_info(&application);
            let instance = entry.create_instance(&create, None).map_err(failed("vkCreateInstance"))?;
            let devices = instance.enumerate_physical_devices().map_err(failed("vkEnumeratePhysicalDevices"))?;
            let &physical = devices.first().ok_or("the driver offers no device")?;

            let mut driver = vk::PhysicalDeviceDriverProperties::default();
            let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
            instance.get_physical_device_properties2(physical, &mut properties);
            let card = text(&properties.properties.device_name);
            let driver = format!("{} {}", text(&driver.driver_name), text(&driver.driver_info));

            let device = Self::device(&instance, physical)?;
            let executables = khr::pipeline_executable_properties::Device::new(&instance, &device);
            Ok(Self { device, executables, instance, card, driver, _entry: entry })
        }
    }

    /// A device with what wgpu switches on and generated code depends on.
    ///
    /// # Safety
    /// `physical` is a device of `instance`.
    unsafe fn device(instance: &Instance, physical: vk::PhysicalDevice) -> Result<Device, String> {
        let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
        let extensions = [khr::pipeline_executable_properties::NAME.as_ptr(), ext::robustness2::NAME.as_ptr()];
        let features = vk::PhysicalDeviceFeatures::default().robust_buffer_access(true);
        let mut robust = vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(true);
        let mut sizes = vk::PhysicalDeviceSubgroupSizeControlFeatures::default().subgroup_size_control(true);
        let mut executables =
            vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
        let create = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions)
            .enabled_features(&features)
            .push_next(&mut robust)
            .push_next(&mut sizes)
            .push_next(&mut executables);
        // SAFETY: the caller's `physical`, and structures that outlive the call.
        unsafe { instance.create_device(physical, &create, None) }.map_err(failed("vkCreateDevice"))
    }

    /// Compiles a shader, and asks what became of it; for its instructions only if they are to be `shown`.
    ///
    /// # Errors
    /// What the driver refuses.
    pub fn compile(&self, module: &Module, shown: bool) -> Result<Compiled, String> {
        let device = &self.device;
        let bindings: Vec<_> =
            module.bindings.iter().map(|&(binding, uniform)| layout_binding(binding, uniform)).collect();
        // SAFETY: the module is naga's, which has validated it; the objects are of this device, destroyed once and after the last
        // use; every structure outlives the call that it is handed to.
        unsafe {
            let create = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let set =
                device.create_descriptor_set_layout(&create, None).map_err(failed("vkCreateDescriptorSetLayout"))?;
            let sets = [set];
            let create = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = device.create_pipeline_layout(&create, None).map_err(failed("vkCreatePipelineLayout"))?;
            let create = vk::ShaderModuleCreateInfo::default().code(&module.words);
            let shader = device.create_shader_module(&create, None).map_err(failed("vkCreateShaderModule"))?;
            let create = vk::ComputePipelineCreateInfo::default().layout(layout).stage(
                vk::PipelineShaderStageCreateInfo::default()
                    .flags(vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE)
                    .stage(vk::ShaderStageFlags::COMPUTE)
                    .module(shader)
                    .name(c"main"),
            );
            let representations = vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
            let capture = if shown { representations } else { vk::PipelineCreateFlags::empty() };
            let create = create.flags(vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR | capture);
            let pipelines = device
                .create_compute_pipelines(vk::PipelineCache::null(), &[create], None)
                .map_err(|(_, result)| failed("vkCreateComputePipelines")(result))?;
            let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipelines[0]);
            let isa = if shown { self.isa(&info).map(Some) } else { Ok(None) };
            let compiled = self.statistics(&info).and_then(|statistics| Ok(Compiled { statistics, isa: isa? }));
            device.destroy_pipeline(pipelines[0], None);
            device.destroy_shader_module(shader, None);
            device.destroy_pipeline_layout(layout, None);
            device.destroy_descriptor_set_layout(set, None);
            compiled
        }
    }

    /// # Safety
    /// `info` names a pipeline of this device that was created with its statistics.
    unsafe fn statistics(&self, info: &vk::PipelineExecutableInfoKHR<'_>) -> Result<Vec<(String, u64)>, String> {
        // SAFETY: the caller's; all of RADV's statistics are whole numbers.
        let statistics = unsafe { self.executables.get_pipeline_executable_statistics(info) }
            .map_err(failed("vkGetPipelineExecutableStatisticsKHR"))?;
        let value = |statistic: &vk::PipelineExecutableStatisticKHR<'_>| unsafe { statistic.value.u64 };
        Ok(statistics.iter().map(|statistic| (text(&statistic.name), value(statistic))).collect())
    }

    /// # Safety
    /// `info` names a pipeline of this device that was created with its representations.
    unsafe fn isa(&self, info: &vk::PipelineExecutableInfoKHR<'_>) -> Result<String, String> {
        let call = self.executables.fp().get_pipeline_executable_internal_representations_khr;
        let mut count = 0;
        // SAFETY: the first call tells how many there are, the second how long they are, and the third fills what has that size.
        unsafe {
            let ask = |count: &mut u32, found: *mut _| call(self.device.handle(), info, count, found).result();
            let failed = failed("vkGetPipelineExecutableInternalRepresentationsKHR");
            ask(&mut count, std::ptr::null_mut()).map_err(&failed)?;
            let mut found = vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
            ask(&mut count, found.as_mut_ptr()).map_err(&failed)?;
            let mut texts: Vec<Vec<u8>> = found.iter().map(|one| vec![0; one.data_size]).collect();
            for (one, text) in found.iter_mut().zip(&mut texts) {
                one.p_data = text.as_mut_ptr().cast();
            }
            ask(&mut count, found.as_mut_ptr()).map_err(&failed)?;
            let names: Vec<_> = found.iter().map(|one| text(&one.name)).collect();
            let assembly = names.iter().position(|name| name == "Assembly");
            let Some(at) = assembly else { return Err(format!("the driver shows {names:?}, but no 'Assembly'")) };
            let end = texts[at].iter().position(|&byte| byte == 0).unwrap_or(texts[at].len());
            Ok(String::from_utf8_lossy(&texts[at][..end]).into_owned())
        }
    }
}

#[allow(unsafe_code, reason = "Vulkan is C: every call is unsafe to Rust")]
impl Drop for Compiler {
    fn drop(&mut self) {
        // SAFETY: nothing made of them is left, and the library is closed after them.
        unsafe {
            self.device.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}

fn layout_binding(binding: u32, uniform: bool) -> vk::DescriptorSetLayoutBinding<'static> {
    let ty = if uniform { vk::DescriptorType::UNIFORM_BUFFER } else { vk::DescriptorType::STORAGE_BUFFER };
    vk::DescriptorSetLayoutBinding::default()
        .binding(binding)
        .descriptor_type(ty)
        .descriptor_count(1)
        .stage_flags(vk::ShaderStageFlags::COMPUTE)
}

/// The text of a fixed array that ends with a zero.
fn text(name: &[c_char]) -> String {
    let bytes: Vec<u8> = name.iter().map(|&c| c.cast_unsigned()).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
