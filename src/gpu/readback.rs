//! Bringing results to the host: a copy to a mappable buffer, `map_async`, and a future.
//!
//! The same code waits natively (a thread polls the device) and in a browser (the event loop calls back).

use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_channel::oneshot;
use web_time::Instant;

use super::{Buffer, Gpu, Heard, Submission, count};
use crate::{Error, ErrorKind, Result};

/// A mappable buffer that receives copies; made once and used again.
pub(crate) struct Staging {
    buffer: Buffer,
}

impl Staging {
    /// A staging buffer of `bytes`.
    pub fn new(gpu: &Gpu, bytes: u64) -> Self {
        use wgpu::BufferUsages as Usage;
        Self { buffer: gpu.buffer("staging", bytes.next_multiple_of(4), Usage::MAP_READ | Usage::COPY_DST) }
    }

    pub(super) fn buffer(&self) -> &wgpu::Buffer {
        self.buffer.on_device()
    }

    /// Asks for the content once `submission`, which copies into this buffer, is done.
    pub fn read_after(&self, submission: Submission) -> Pending {
        let (sender, mapped) = oneshot::channel();
        self.buffer().map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver is gone when a generation was dropped in flight; then nobody wants the result.
            let _ = sender.send(result);
        });
        Pending { submission, mapped, heard: Heard::Unasked }
    }

    /// Waits for `pending` and copies the content out.
    pub async fn take<T: bytemuck::AnyBitPattern>(&self, gpu: &Gpu, mut pending: Pending) -> Result<Vec<T>> {
        poll_fn(|context| self.poll_take(gpu, &mut pending, context)).await
    }

    /// [`Staging::take`], for whoever keeps `pending` until it is ready.
    pub fn poll_take<T: bytemuck::AnyBitPattern>(
        &self,
        gpu: &Gpu,
        pending: &mut Pending,
        context: &mut Context<'_>,
    ) -> Poll<Result<Vec<T>>> {
        let mapped = ready!(pending.poll_mapped(gpu, context));
        count(&gpu.inner.counters.readbacks);
        Poll::Ready(self.content(gpu, mapped))
    }

    fn content<T: bytemuck::AnyBitPattern>(&self, gpu: &Gpu, mapped: Option<Mapped>) -> Result<Vec<T>> {
        gpu.check()?;
        let failed =
            |what: &dyn Display| Error::new(ErrorKind::Device, format!("reading back from the GPU failed: {what}"));
        match mapped {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(failed(&error).caused_by(error)),
            None => return Err(failed(&"the device dropped the request")),
        }
        let view = self.buffer().get_mapped_range(..).map_err(|error| failed(&error).caused_by(error))?;
        let content = bytemuck::pod_collect_to_vec::<u8, u8>(&view);
        drop(view);
        self.buffer().unmap();
        Ok(content.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect())
    }
}

/// What the driver says once a buffer can be read, or cannot.
type Mapped = std::result::Result<(), wgpu::BufferAsyncError>;

/// A readback on its way.
pub(crate) struct Pending {
    submission: Submission,
    mapped: oneshot::Receiver<Mapped>,
    heard: Heard,
}

impl Pending {
    /// `None` if the driver will say nothing.
    fn poll_mapped(&mut self, gpu: &Gpu, context: &mut Context<'_>) -> Poll<Option<Mapped>> {
        loop {
            if let Poll::Ready(mapped) = Pin::new(&mut self.mapped).poll(context) {
                return Poll::Ready(mapped.ok());
            }
            match &mut self.heard {
                Heard::Unasked => self.heard = gpu.opened().poller.hear(&self.submission),
                Heard::Asked(done) => match ready!(Pin::new(done).poll(context)) {
                    Ok(()) => self.heard = Heard::Called,
                    Err(_) => return Poll::Ready(None),
                },
                Heard::Called => return Poll::Pending,
            }
        }
    }
}

impl Gpu {
    /// Seconds that the host waits for an idle GPU: the median of three readbacks of next to nothing.
    pub(crate) async fn time_readback(&self) -> Result<f64> {
        let buffer = self.storage("readback", 16);
        let staging = Staging::new(self, buffer.size());
        let mut seconds = [0.0; 3];
        for seconds in &mut seconds {
            let started = Instant::now();
            let pending = staging.read_after(self.submit(None, |_| {}, Some((&buffer, &staging))));
            staging.take::<u32>(self, pending).await?;
            *seconds = started.elapsed().as_secs_f64();
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[1])
    }

    /// The whole content of a storage buffer. Creates a staging buffer: for tests and self-tests, not for the loop.
    pub(crate) async fn read<T: bytemuck::AnyBitPattern>(&self, buffer: &Buffer) -> Result<Vec<T>> {
        let staging = Staging::new(self, buffer.size());
        let submission = self.submit(None, |_| {}, Some((buffer, &staging)));
        let pending = staging.read_after(submission);
        staging.take(self, pending).await
    }
}
