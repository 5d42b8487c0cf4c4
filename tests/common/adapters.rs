//! Adapters and checkpoints for tests that run on the GPU.

use std::borrow::Cow;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::OnceLock;

use foretoken::format::files::{Files, MemoryFiles};
use foretoken::{Error, ErrorKind, Gpu, GpuOptions, Result};

/// Every adapter of this machine, opened once. Fails where there is none: a test that needs a GPU must not pass without.
fn adapters() -> &'static [Gpu] {
    static ADAPTERS: OnceLock<Vec<Gpu>> = OnceLock::new();
    ADAPTERS.get_or_init(|| {
        pollster::block_on(async {
            let mut opened = Vec::new();
            for summary in Gpu::adapters().await {
                let options = GpuOptions::default().adapter(summary.index.to_string());
                eprintln!("adapter {}: {summary}, {}", summary.index, summary.driver_info);
                opened.push(Gpu::open(&options).await.expect("an adapter that is listed opens"));
            }
            assert!(!opened.is_empty(), "no adapter: install a Vulkan driver, on Debian mesa-vulkan-drivers");
            opened
        })
    })
}

/// Runs `test` on each adapter.
pub fn each_adapter<F: Future<Output = ()>>(test: impl Fn(Gpu) -> F) {
    adapters().iter().for_each(|gpu| pollster::block_on(test(gpu.clone())));
}

/// Runs `test` on each adapter, on a device that is opened for it and closed with it.
///
/// For tests that count what a device did, which would hear other tests on a shared one; and for programs that end with
/// a submit under way, which a driver may not survive.
pub fn each_own_device<F: Future<Output = ()>>(test: impl Fn(Gpu) -> F) {
    each_adapter(|shared| {
        let adapter = Some(shared.summary().index.to_string());
        let gpu = pollster::block_on(Gpu::open(&GpuOptions::default().adapter(adapter)));
        test(gpu.expect("an adapter opens twice"))
    });
}

/// The folder of a golden checkpoint.
pub fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")).join(name)
}

/// The files of a golden checkpoint, to be changed.
pub fn golden_in_memory(name: &str) -> MemoryFiles {
    let entries = std::fs::read_dir(golden(name)).expect("the checkpoint's folder");
    let files = entries.map(|entry| {
        let entry = entry.expect("an entry");
        let bytes = std::fs::read(entry.path()).expect("its bytes");
        (entry.file_name().into_string().expect("a name"), Cow::Owned(bytes))
    });
    MemoryFiles { name: name.to_owned(), files: files.collect() }
}

/// A checkpoint folder, read as asked.
pub struct DiskFiles(pub PathBuf);

impl Files for DiskFiles {
    async fn len(&self, name: &str) -> Result<Option<u64>> {
        Ok(std::fs::metadata(self.0.join(name)).ok().map(|metadata| metadata.len()))
    }

    async fn read(&self, name: &str, range: Range<u64>) -> Result<Cow<'_, [u8]>> {
        let bytes = std::fs::read(self.0.join(name)).map_err(|error| Error::new(ErrorKind::Io, error.to_string()))?;
        Ok(Cow::Owned(bytes[range.start as usize..range.end as usize].to_vec()))
    }

    fn describe(&self) -> String {
        self.0.display().to_string()
    }
}
