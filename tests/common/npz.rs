//! Arrays as numpy's `savez` keeps them: a zip archive with one `.npy` file an array.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use zip::ZipArchive;

/// An opened `.npz` file.
pub struct Npz(ZipArchive<File>);

/// An element type, by numpy's name for it in little endian.
pub trait Element: bytemuck::AnyBitPattern {
    const NAME: &'static str;
}

impl Element for f32 {
    const NAME: &'static str = "<f4";
}

impl Element for i32 {
    const NAME: &'static str = "<i4";
}

impl Npz {
    pub fn open(path: &Path) -> Self {
        Self(ZipArchive::new(File::open(path).expect("the archive")).expect("a zip archive"))
    }

    /// The elements of an array in row-major order.
    pub fn read<T: Element>(&mut self, name: &str) -> Vec<T> {
        let mut bytes = Vec::new();
        let mut member = self.0.by_name(&format!("{name}.npy")).expect("the array");
        member.read_to_end(&mut bytes).expect("it unpacks");
        // Magic, version, the header's length, the header, the data.
        let (start, rest) = bytes.split_first_chunk::<10>().expect("a start");
        assert_eq!(start[..8], *b"\x93NUMPY\x01\x00", "{name}");
        let (header, data) = rest.split_at(u16::from_le_bytes([start[8], start[9]]).into());
        let header = String::from_utf8_lossy(header);
        assert!(header.contains(&format!("'descr': '{}'", T::NAME)), "{name}: {header}");
        assert!(header.contains("'fortran_order': False"), "{name}: {header}");
        data.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
    }
}
