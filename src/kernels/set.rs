//! Kernel sets: every kernel at every width in forms that suit one kind of adapter.

use std::fmt;
use std::str::FromStr;

use crate::gpu::{AdapterSummary, Variant};
use crate::{Error, ErrorKind, Result};

/// A complete choice of kernel forms. It is made once for an engine, never for a single kernel, so that results
/// depend on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelSet {
    /// One thread an output, no barriers: for adapters that run on the processor.
    Software,
    /// Threads share an output through workgroup memory: for every GPU.
    Workgroup,
    /// Threads share an output as in `Workgroup`, reductions by subgroups: for GPUs with one subgroup size.
    Subgroup,
}

impl KernelSet {
    /// Every set, in the order of their names in messages.
    pub const ALL: [Self; 3] = [Self::Software, Self::Workgroup, Self::Subgroup];

    /// The sets that can run on an adapter.
    pub fn available(summary: &AdapterSummary) -> Vec<Self> {
        Self::ALL.into_iter().filter(|set| *set != Self::Subgroup || summary.fixed_subgroup().is_some()).collect()
    }

    /// The set taken without measuring: `Software` on software adapters, else the widest available.
    pub fn default_for(summary: &AdapterSummary) -> Self {
        match (summary.software, summary.fixed_subgroup()) {
            (true, _) => Self::Software,
            (false, Some(_)) => Self::Subgroup,
            (false, None) => Self::Workgroup,
        }
    }

    /// Checks that this set can run on an adapter.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for `Subgroup` where the adapter has no single subgroup size.
    pub fn check(self, summary: &AdapterSummary) -> Result<()> {
        if Self::available(summary).contains(&self) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "kernel set '{self}' needs subgroups of one size; {summary} has {:?}; use 'workgroup'",
                summary.subgroup
            ),
        ))
    }

    /// Checks that a context is not too long for this set.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a long one with `Software`: one of its threads scans all keys twice, and lavapipe
    /// silently ends the loops of a shader after 65,535 rounds in all.
    pub fn check_context(self, context: usize) -> Result<()> {
        const SOFTWARE: usize = 32_000;
        if self != Self::Software || context <= SOFTWARE {
            return Ok(());
        }
        Err(Error::unsupported(format!(
            "a context of {context}: kernel set '{self}' holds at most {SOFTWARE}; choose a shorter one, or the \
             set 'workgroup'"
        )))
    }

    /// Lanes that share a reduction over a row.
    pub(crate) fn reduce_lanes(self) -> u32 {
        match self {
            Self::Software => 1,
            Self::Workgroup | Self::Subgroup => 256,
        }
    }

    /// Column blocks and input splits of a workgroup of the narrow product, most columns first.
    pub(crate) fn product_shapes(self) -> &'static [(u32, u32)] {
        match self {
            Self::Software => &[(32, 1)],
            Self::Workgroup | Self::Subgroup => &[(16, 16), (8, 32), (4, 64)],
        }
    }

    /// The shape for a matrix of `columns4` blocks of columns: as many columns as leave enough workgroups to keep a GPU busy.
    /// Sums depend on the splits, so it is the whole matrix that counts, however it is cut into shards.
    pub(crate) fn product_shape(self, columns4: u32) -> (u32, u32) {
        const WORKGROUPS: u32 = 256;
        let shapes = self.product_shapes();
        let busy = shapes.iter().find(|(lanes, _)| columns4 / lanes >= WORKGROUPS);
        *busy.unwrap_or(&shapes[shapes.len() - 1])
    }

    /// The shape of the workgroups that add up attention's values. A head has few column blocks: 8 lanes are what software
    /// adapters compute at once, and more would stay idle at full price.
    pub(crate) fn values_shape(self) -> (u32, u32) {
        match self {
            Self::Software => (8, 1),
            Self::Workgroup | Self::Subgroup => (16, 16),
        }
    }

    /// Binds the reduction this set uses.
    pub(crate) fn with_reduce(self, variant: Variant, subgroup: u32) -> Variant {
        let lanes = self.reduce_lanes();
        match self {
            Self::Software => variant.piece("reduce", "reduce_serial").constant("LANES", lanes),
            Self::Subgroup if subgroup > 1 && subgroup <= lanes => {
                variant.piece("reduce", "reduce_subgroup").constant("LANES", lanes).constant("SUBGROUP", subgroup)
            }
            _ => variant.piece("reduce", "reduce_workgroup").constant("LANES", lanes),
        }
    }

    /// Binds a reduction over a vocabulary. It has lanes in every set: lavapipe ends the loops of a shader after 65,535
    /// rounds in all, without a word. It has no subgroups: `sample` branches around barriers, for which its result
    /// must be known to be uniform. On the processor a lane at a barrier costs more than a lane saves.
    pub(crate) fn with_vocabulary_reduce(self, variant: Variant) -> Variant {
        let lanes = if self == Self::Software { 64 } else { self.reduce_lanes() };
        variant.piece("reduce", "reduce_workgroup").constant("LANES", lanes)
    }

    /// Binds a reduction over rows of which there are many: in the software set a thread has a row, and 64 of
    /// them make a workgroup; in the others 64 lanes share a row.
    pub(crate) fn with_many_rows(self, variant: Variant, subgroup: u32) -> Variant {
        const LANES: u32 = 64;
        match self {
            Self::Software => {
                variant.piece("reduce", "reduce_serial").constant("LANES", 1).constant("ROWS", self.many_rows())
            }
            Self::Subgroup if subgroup > 1 && subgroup <= LANES => {
                let variant = variant.piece("reduce", "reduce_subgroup").constant("SUBGROUP", subgroup);
                variant.constant("LANES", LANES).constant("ROWS", self.many_rows())
            }
            _ => {
                variant.piece("reduce", "reduce_workgroup").constant("LANES", LANES).constant("ROWS", self.many_rows())
            }
        }
    }

    /// Rows of a workgroup of what [`Self::with_many_rows`] has bound.
    pub(crate) fn many_rows(self) -> u32 {
        if self == Self::Software { 64 } else { 1 }
    }

    /// Binds the sum over splits that a shape of this set needs.
    pub(crate) fn with_split(variant: Variant, (lanes, splits): (u32, u32)) -> Variant {
        let piece = if splits == 1 { "split_none" } else { "split_workgroup" };
        variant.piece("split", piece).constant("LANES", lanes).constant("SPLITS", splits)
    }
}

impl fmt::Display for KernelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Software => "software",
            Self::Workgroup => "workgroup",
            Self::Subgroup => "subgroup",
        })
    }
}

impl FromStr for KernelSet {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|set| set.to_string() == name)
            .ok_or_else(|| Error::input(format!("no kernel set '{name}'; there are: software, workgroup, subgroup")))
    }
}

/// The row counts that products are compiled for, each with fewer pipelines than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Widths {
    /// One pipeline each for 1, 2, 3, 4, 6 and 8 rows, and where the set has one a tiled one for more than a batch has.
    Each,
    /// One pipeline for each width as in `Each`, without the tiled one, where a driver computes different bits in that.
    Narrow,
    /// One pipeline of 8 rows for every width, where a driver computes different bits in different pipelines.
    Fixed,
}

impl Widths {
    /// Rows per pipeline, ascending. More rows than the last are passes of the last.
    pub fn rows(self) -> &'static [u32] {
        match self {
            Self::Each | Self::Narrow => &[1, 2, 3, 4, 6, 8],
            Self::Fixed => &[8],
        }
    }
}
