//! A caller's own device.

use crate::common::{DiskFiles, golden};
use foretoken::{Engine, EngineOptions, GenerateOptions, Gpu, wgpu};

#[test]
fn a_caller_can_share_its_device() {
    pollster::block_on(async {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await.expect("an adapter");
        let (device, queue) = adapter.request_device(&wgpu::DeviceDescriptor::default()).await.expect("a device");
        let gpu = Gpu::from_device(&adapter, device, queue);
        assert_eq!(gpu.summary().max_binding_bytes, 128 << 20, "the limits are those of the device");
        let files = DiskFiles(golden("llama-mha"));
        let engine = Engine::load(&gpu, &files, &EngineOptions::default(), &mut |_| {}).await.expect("it loads");
        let mut session = engine.session().expect("a session");
        let options = GenerateOptions { max_tokens: Some(4), ..GenerateOptions::default() };
        let mut generation = session.generate(&[1, 2], &options, &mut |_| {}).await.expect("a prompt");
        let mut count = 0;
        while generation.next().await.expect("a step").is_some() {
            count += 1;
        }
        assert!((1..=4).contains(&count));
    });
}

#[test]
fn a_lost_device_is_an_error_and_the_text_so_far_stays() {
    pollster::block_on(async {
        let gpu = Gpu::open(&foretoken::GpuOptions::default()).await.expect("an adapter");
        let files = DiskFiles(golden("llama-mha"));
        let engine = Engine::load(&gpu, &files, &EngineOptions::default(), &mut |_| {}).await.expect("it loads");
        let mut session = engine.session().expect("a session");
        let options = GenerateOptions { max_tokens: Some(100), ..GenerateOptions::default() };
        let mut generation = session.generate(&[1, 2, 3], &options, &mut |_| {}).await.expect("a prompt");
        for _ in 0..3 {
            generation.next().await.expect("a step");
        }
        gpu.device().destroy();
        let error = loop {
            match generation.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a lost device ended the text without a word"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), foretoken::ErrorKind::Device, "{error}");
        assert!(generation.ids().len() >= 3);
        assert!(engine.session().is_err());
    });
}
