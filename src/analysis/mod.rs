//! Teacher-forced accuracy of what predicts tokens ahead, with intervals: pure functions from records of samples to a report.
//!
//! A *column* is one method at one offset: the model's next token, the marginal, a head. Every column scores the same target
//! tokens of a sample, whatever its offset, so that columns can be compared pairwise. A [`Record`] holds what all columns
//! said of one sample; it depends on nothing but that sample, so records can be made anywhere and put together later. Tokens
//! of a sample are correlated, so intervals come from a bootstrap over samples; it is paired, because every column is
//! resampled alike.

mod bootstrap;
mod distribution;
mod record;
mod report;
mod settings;

pub use bootstrap::{Bootstrap, Interval, Quantities};
pub use distribution::{Distribution, divergence};
pub use record::{Measured, Record, Rows};
pub use report::{
    Accuracy, Bin, ColumnReport, Contrast, Depth, Drafting, GapClosed, NUCLEUS_MASSES, NucleusSize, Report,
};
pub(crate) use settings::check_mass;
pub use settings::{Column, DataFacts, FolderFacts, HeadFacts, Method, Run, Settings, Shard};
