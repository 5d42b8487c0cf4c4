//! A program that has a wgpu device of its own, and lets the model share it.
//!
//! `cargo run --release --example own_device`

use foretoken::wgpu::{self, BufferUsages};
use foretoken::{Engine, EngineOptions, GenerateOptions, Gpu};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(share())
}

async fn share() -> Result<(), Box<dyn std::error::Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await?;
    // WebGPU's default limits are enough. Subgroups make it faster where the adapter has them.
    let required_features = adapter.features() & wgpu::Features::SUBGROUP;
    let descriptor = wgpu::DeviceDescriptor { required_features, ..wgpu::DeviceDescriptor::default() };
    let (device, queue) = adapter.request_device(&descriptor).await?;

    // From here on both use the device. Errors that nobody captures go to the `Gpu`: `Gpu::check` has them.
    let gpu = Gpu::from_device(&adapter, device.clone(), queue.clone());
    let engine = Engine::load(&gpu, &foretoken::default_model(), &EngineOptions::default(), &mut |_| {}).await?;
    let ids = engine.tokenizer()?.encode("The sun", true)?;
    let options = GenerateOptions::default().max_tokens(24);
    let mut session = engine.session()?;
    let mut text = session.generate(&ids, &options, &mut |_| {}).await?;

    // The program's own work goes between the model's, in the order of the queue.
    let usage = BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
    let descriptor = wgpu::BufferDescriptor { label: Some("ours"), size: 4, usage, mapped_at_creation: false };
    let ours = device.create_buffer(&descriptor);
    let mut count = 0u32;
    while text.next().await?.is_some() {
        count += 1;
        queue.write_buffer(&ours, 0, &count.to_le_bytes());
        queue.submit([]);
    }
    gpu.check()?;
    println!("{}: The sun{}", gpu.summary(), text.text());
    Ok(())
}
