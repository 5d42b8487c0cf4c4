//! Buffers, and what binds them to a kernel: on a device, or on a dry one, where they are sizes that are added up.

use std::sync::atomic::{AtomicU64, Ordering};

/// A buffer. Clones are the same one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Buffer(pub(super) Memory);

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Memory {
    Device(wgpu::Buffer),
    /// Of a dry device. No other has this number.
    Dry {
        number: u64,
        bytes: u64,
    },
}

impl Buffer {
    pub(super) fn dry(bytes: u64) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self(Memory::Dry { number: NUMBERS.fetch_add(1, Ordering::Relaxed), bytes })
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Memory::Device(buffer) => buffer.size(),
            Memory::Dry { bytes, .. } => *bytes,
        }
    }

    /// The buffer on the device.
    ///
    /// # Panics
    /// If the device is dry: a mistake in this crate.
    pub(super) fn on_device(&self) -> &wgpu::Buffer {
        match &self.0 {
            Memory::Device(buffer) => buffer,
            Memory::Dry { .. } => panic!("a dry buffer has no content"),
        }
    }
}

/// A kernel's buffers, bound; nothing on a dry device.
pub(crate) struct BindGroup(pub(super) Option<wgpu::BindGroup>);
