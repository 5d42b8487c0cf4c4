//! The GPU: adapters, the device, buffers, pipelines, submits and readbacks. The only module that names wgpu's objects.
//!
//! Everything wgpu reports late (validation, out of memory, a lost device) is kept and returned by [`Gpu::check`];
//! nothing here panics on what a driver does.
//!
//! A *dry* [`Gpu`] has no device behind it: it hands out buffers that are only sizes, adds these up, and notes each kernel that it
//! is asked for. Whatever makes ops makes them on a dry one too, which then knows what they would take; it cannot run them.
//!
//! Natively `FORETOKEN_DUMP_WGSL=DIR` writes each shader, as it is linked for this device, to a file of the folder DIR.

mod adapter;
mod buffer;
pub(crate) mod composer;
mod kernel;
mod poll;
mod readback;

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use adapter::AdapterSummary;
use buffer::Memory;
pub(crate) use buffer::{BindGroup, Buffer};
pub(crate) use composer::Variant;
pub(crate) use kernel::Kernel;
use poll::{Heard, Poller, Trouble};
pub(crate) use readback::{Pending, Staging};
/// A submit on its way.
pub(crate) use wgpu::SubmissionIndex as Submission;

use crate::options::setters;
use crate::{Error, ErrorKind, Result};

/// The environment variable that names a folder for linked shaders. A browser has none.
const DUMP: &str = "FORETOKEN_DUMP_WGSL";

/// Options to open a [`Gpu`] with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GpuOptions {
    /// The adapter to use: its index in [`Gpu::adapters`], or a part of its name, backend or driver, in any case.
    /// `None` picks the likeliest fastest one.
    pub adapter: Option<String>,
    /// Ask for no more than the limits every WebGPU implementation has, even where the adapter offers more.
    pub webgpu_limits: bool,
    /// Keep the bounds checks of shaders. They cost about half the speed on software adapters.
    pub checked_shaders: bool,
    /// How long the device may work at one submit before it counts as hung, and everything on it as lost. Default: five minutes,
    /// which no submit of ours needs.
    pub deadline: Duration,
}

setters!(GpuOptions { webgpu_limits: bool, checked_shaders: bool, deadline: Duration; or none adapter: String });

impl Default for GpuOptions {
    fn default() -> Self {
        Self { adapter: None, webgpu_limits: false, checked_shaders: false, deadline: Duration::from_secs(300) }
    }
}

/// An open device. Clones share it.
#[derive(Clone)]
pub struct Gpu {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None` if it is dry.
    open: Option<Open>,
    summary: AdapterSummary,
    checked_shaders: bool,
    /// The folder that linked shaders are written to.
    dump: Option<PathBuf>,
    trouble: Arc<Trouble>,
    kernels: Mutex<BTreeMap<Variant, Arc<Kernel>>>,
    companions: Mutex<BTreeMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    counters: Counters,
}

/// A device, its queue, and who waits for it.
struct Open {
    device: wgpu::Device,
    queue: wgpu::Queue,
    poller: Poller,
}

/// Counts of what has been created and done on a device since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Pipelines compiled.
    pub pipelines: u64,
    /// Bind groups created.
    pub bind_groups: u64,
    /// Buffers created.
    pub buffers: u64,
    /// Bytes of all buffers created.
    pub buffer_bytes: u64,
    /// Command buffers submitted.
    pub submits: u64,
    /// Compute passes recorded.
    pub passes: u64,
    /// Dispatches recorded.
    pub dispatches: u64,
    /// Readbacks waited for.
    pub readbacks: u64,
}

#[derive(Default)]
struct Counters {
    pipelines: AtomicU64,
    bind_groups: AtomicU64,
    buffers: AtomicU64,
    buffer_bytes: AtomicU64,
    largest_buffer: AtomicU64,
    submits: AtomicU64,
    passes: AtomicU64,
    dispatches: AtomicU64,
    readbacks: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere cannot leave these maps half-written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// The adapters of this machine, in a stable order; in a browser the one it offers.
    pub async fn adapters() -> Vec<AdapterSummary> {
        adapter::enumerate().await.into_iter().map(|(_, summary)| summary).collect()
    }

    /// The index of the adapter that [`Gpu::open`] would take, and why.
    ///
    /// # Errors
    /// [`ErrorKind::Adapter`] if there is none, or none fits `wanted`.
    pub fn pick(adapters: &[AdapterSummary], wanted: Option<&str>) -> Result<(usize, String)> {
        adapter::pick(adapters, wanted)
    }

    /// Opens the device of the adapter that `options` name.
    ///
    /// # Errors
    /// [`ErrorKind::Adapter`] if there is no such adapter or its driver refuses a device.
    pub async fn open(options: &GpuOptions) -> Result<Self> {
        let mut adapters = adapter::enumerate().await;
        let summaries: Vec<_> = adapters.iter().map(|(_, summary)| summary.clone()).collect();
        let (index, _) = adapter::pick(&summaries, options.adapter.as_deref())?;
        let (adapter, mut summary) = adapters.swap_remove(index);
        let (device, queue) = adapter::request_device(&adapter, &summary, options.webgpu_limits).await?;
        summary.set_limits(&device.limits());
        Ok(Self::new(device, queue, summary, options))
    }

    /// Uses a device that the caller has opened on `adapter`.
    ///
    /// The device needs the default limits of WebGPU; `SUBGROUP` is used if the device has it. The handlers for
    /// uncaptured errors and device loss of the device are replaced.
    ///
    /// ```no_run
    /// # async fn share(adapter: foretoken::wgpu::Adapter) -> Result<(), Box<dyn std::error::Error>> {
    /// use foretoken::{Engine, EngineOptions, Gpu, wgpu};
    ///
    /// let (device, queue) = adapter.request_device(&wgpu::DeviceDescriptor::default()).await?;
    /// let gpu = Gpu::from_device(&adapter, device.clone(), queue.clone());
    /// let engine = Engine::load(&gpu, &foretoken::default_model(), &EngineOptions::default(), &mut |_| {}).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_device(adapter: &wgpu::Adapter, device: wgpu::Device, queue: wgpu::Queue) -> Self {
        let mut summary = AdapterSummary::of(0, adapter);
        if !device.features().contains(wgpu::Features::SUBGROUP) {
            summary.subgroup = None;
        }
        summary.set_limits(&device.limits());
        Self::new(device, queue, summary, &GpuOptions::default())
    }

    fn new(device: wgpu::Device, queue: wgpu::Queue, summary: AdapterSummary, options: &GpuOptions) -> Self {
        let trouble = Arc::new(Trouble::default());
        let uncaptured = Arc::clone(&trouble);
        device.on_uncaptured_error(Arc::new(move |error| uncaptured.report(adapter::translate(error))));
        let of_loss = Arc::clone(&trouble);
        device.set_device_lost_callback(move |reason, message| {
            of_loss.lose(Error::new(
                ErrorKind::Device,
                format!("the GPU device was lost ({reason:?}): {message}; load the model again to go on"),
            ));
        });
        let poller = Poller::new(device.clone(), options.deadline, Arc::clone(&trouble));
        let open = Open { device, queue, poller };
        let dump = env::var_os(DUMP).filter(|folder| !folder.is_empty()).map(PathBuf::from);
        Self::with(Some(open), summary, options.checked_shaders, dump, trouble)
    }

    /// A dry one, as if it were open on the adapter that `summary` describes.
    pub(crate) fn dry(summary: &AdapterSummary) -> Self {
        Self::with(None, summary.clone(), false, None, Arc::default())
    }

    fn with(
        open: Option<Open>,
        summary: AdapterSummary,
        checked_shaders: bool,
        dump: Option<PathBuf>,
        trouble: Arc<Trouble>,
    ) -> Self {
        let (kernels, companions, counters) = Default::default();
        Self { inner: Arc::new(Inner { open, summary, checked_shaders, dump, trouble, kernels, companions, counters }) }
    }

    /// Whether there is no device behind it.
    pub(crate) fn is_dry(&self) -> bool {
        self.inner.open.is_none()
    }

    /// # Panics
    /// On a dry one, which computes nothing: a mistake in this crate, since no user gets one.
    fn opened(&self) -> &Open {
        self.inner.open.as_ref().expect("a dry device computes nothing")
    }

    /// The adapter this device was opened on.
    pub fn summary(&self) -> &AdapterSummary {
        &self.inner.summary
    }

    /// The wgpu device, for callers that share it.
    pub fn device(&self) -> &wgpu::Device {
        &self.opened().device
    }

    /// The wgpu queue, for callers that share it.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.opened().queue
    }

    /// Counts of what has been created and done so far.
    pub fn counts(&self) -> Counts {
        let c = &self.inner.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            pipelines: read(&c.pipelines),
            bind_groups: read(&c.bind_groups),
            buffers: read(&c.buffers),
            buffer_bytes: read(&c.buffer_bytes),
            submits: read(&c.submits),
            passes: read(&c.passes),
            dispatches: read(&c.dispatches),
            readbacks: read(&c.readbacks),
        }
    }

    /// Bytes of the largest buffer created so far.
    pub(crate) fn largest_buffer(&self) -> u64 {
        self.inner.counters.largest_buffer.load(Ordering::Relaxed)
    }

    /// The first error that wgpu has reported since the device was opened.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] or [`ErrorKind::Device`].
    pub fn check(&self) -> Result<()> {
        self.inner.trouble.check()
    }

    /// Whether the device is lost: nothing works any more, and what was on it is gone. Another one can be opened, the model
    /// loaded there, and a text taken over with [`Session::restore`](crate::Session::restore).
    pub fn is_lost(&self) -> bool {
        self.inner.trouble.is_lost()
    }

    /// The one value of type `T` that goes with this device, made at the first call: what a module above remembers of it.
    pub(crate) fn companion<T: Any + Default + Send + Sync>(&self) -> Arc<T> {
        let mut companions = lock(&self.inner.companions);
        let kept = companions.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(T::default()));
        Arc::clone(kept).downcast().unwrap_or_default()
    }

    /// A zeroed storage buffer of at least `bytes`.
    pub(crate) fn storage(&self, label: &str, bytes: u64) -> Buffer {
        use wgpu::BufferUsages as Usage;
        self.buffer(label, bytes.max(16).next_multiple_of(16), Usage::STORAGE | Usage::COPY_DST | Usage::COPY_SRC)
    }

    /// A storage buffer with this content.
    pub(crate) fn storage_with<T: bytemuck::NoUninit>(&self, label: &str, content: &[T]) -> Buffer {
        let buffer = self.storage(label, size_of_val(content) as u64);
        self.write(&buffer, 0, content);
        buffer
    }

    /// A uniform buffer with this content.
    pub(crate) fn uniform<T: bytemuck::NoUninit>(&self, label: &str, content: &T) -> Buffer {
        use wgpu::BufferUsages as Usage;
        let bytes = (size_of::<T>() as u64).next_multiple_of(16);
        let buffer = self.buffer(label, bytes, Usage::UNIFORM | Usage::COPY_DST);
        self.write(&buffer, 0, std::slice::from_ref(content));
        buffer
    }

    fn buffer(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> Buffer {
        let counters = &self.inner.counters;
        count(&counters.buffers);
        counters.buffer_bytes.fetch_add(size, Ordering::Relaxed);
        counters.largest_buffer.fetch_max(size, Ordering::Relaxed);
        let Some(Open { device, .. }) = &self.inner.open else { return Buffer::dry(size) };
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        Buffer(Memory::Device(device.create_buffer(&descriptor)))
    }

    /// Writes `content` at byte `offset`, before any later submit. A dry device has no use for it.
    pub(crate) fn write<T: bytemuck::NoUninit>(&self, buffer: &Buffer, offset: u64, content: &[T]) {
        if let Some(Open { queue, .. }) = &self.inner.open {
            queue.write_buffer(buffer.on_device(), offset, bytemuck::cast_slice(content));
        }
    }

    /// Sends written data on its way and waits until it is there, so that staging memory does not pile up; in a browser, where
    /// nobody hears of that, until it is sent. A dry device has nothing to send.
    pub(crate) async fn flush_writes(&self) -> Result<()> {
        let Some(Open { queue, .. }) = &self.inner.open else { return Ok(()) };
        let submission = queue.submit([]);
        self.finished(submission).await
    }

    /// Waits until a submission is done; in a browser, where only readbacks are heard of, until it is sent.
    pub(crate) async fn finished(&self, submission: Submission) -> Result<()> {
        if let Heard::Asked(done) = self.opened().poller.hear(&submission) {
            // A device in trouble gives no answer; the check below says why.
            let _ = done.await;
        }
        self.check()
    }

    /// Lets no submit be done from now on, for tests.
    #[cfg(test)]
    pub(crate) fn stall(&self) {
        self.inner.trouble.stall();
    }

    /// A bind group of `kernel` over whole buffers, in the order of its bindings.
    pub(crate) fn bind(&self, kernel: &Kernel, buffers: &[&Buffer]) -> BindGroup {
        assert_eq!(kernel.bindings.len(), buffers.len(), "{}: number of buffers", kernel.label);
        count(&self.inner.counters.bind_groups);
        let Some((Open { device, .. }, compiled)) = self.inner.open.as_ref().zip(kernel.compiled.as_ref()) else {
            return BindGroup(None);
        };
        let entries: Vec<_> = kernel
            .bindings
            .iter()
            .zip(buffers)
            .map(|(&binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.on_device().as_entire_binding(),
            })
            .collect();
        let layout = &compiled.layout;
        let descriptor = wgpu::BindGroupDescriptor { label: Some(&kernel.label), layout, entries: &entries };
        BindGroup(Some(device.create_bind_group(&descriptor)))
    }

    /// Sets all of `buffers` to zero.
    pub(crate) fn clear(&self, buffers: &[&Buffer]) {
        let Open { device, queue, .. } = self.opened();
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        buffers.iter().for_each(|buffer| encoder.clear_buffer(buffer.on_device(), 0, None));
        count(&self.inner.counters.submits);
        queue.submit([encoder.finish()]);
    }

    /// Does `copies`, after everything that was submitted before.
    pub(crate) fn copy(&self, copies: &Copies) {
        let Open { device, queue, .. } = self.opened();
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for ((from, from_byte), (to, to_byte), bytes) in &copies.0 {
            encoder.copy_buffer_to_buffer(from.on_device(), *from_byte, to.on_device(), *to_byte, Some(*bytes));
        }
        count(&self.inner.counters.submits);
        queue.submit([encoder.finish()]);
    }

    /// Records one compute pass with `record` and the copies of `copies` (source, staging), and submits them.
    pub(crate) fn submit(
        &self,
        clear: Option<(&Buffer, u64, u64)>,
        record: impl FnOnce(&mut Recorder<'_>),
        copy: Option<(&Buffer, &Staging)>,
    ) -> Submission {
        let _span = tracing::trace_span!("submit").entered();
        let Open { device, queue, .. } = self.opened();
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        if let Some((buffer, offset, size)) = clear {
            encoder.clear_buffer(buffer.on_device(), offset, Some(size));
        }
        {
            count(&self.inner.counters.passes);
            let pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            record(&mut Recorder { pass, dispatches: &self.inner.counters.dispatches });
        }
        if let Some((source, staging)) = copy {
            let (source, staging) = (source.on_device(), staging.buffer());
            encoder.copy_buffer_to_buffer(source, 0, staging, 0, Some(staging.size()));
        }
        count(&self.inner.counters.submits);
        queue.submit([encoder.finish()])
    }
}

/// Copies between buffers that were collected to be done at once.
#[derive(Default)]
pub(crate) struct Copies(Vec<(Place, Place, u64)>);

/// A buffer, and from which byte on.
type Place = (Buffer, u64);

impl Copies {
    /// Adds the copy of so many bytes; places and bytes are multiples of four.
    pub fn add(&mut self, from: (&Buffer, u64), to: (&Buffer, u64), bytes: u64) {
        self.0.push(((from.0.clone(), from.1), (to.0.clone(), to.1), bytes));
    }
}

/// Records dispatches into the one pass of a submit.
pub(crate) struct Recorder<'a> {
    pass: wgpu::ComputePass<'a>,
    dispatches: &'a AtomicU64,
}

impl Recorder<'_> {
    /// Dispatches `kernel` over `bind_group`.
    pub fn dispatch(&mut self, kernel: &Kernel, bind_group: &BindGroup, grid: [u32; 3]) {
        count(self.dispatches);
        kernel.dispatched.store(true, Ordering::Relaxed);
        let compiled = kernel.compiled.as_ref().expect("a dry kernel is never dispatched");
        self.pass.set_pipeline(&compiled.pipeline);
        self.pass.set_bind_group(0, bind_group.0.as_ref(), &[]);
        self.pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
    }
}
