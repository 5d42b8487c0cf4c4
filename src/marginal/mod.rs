//! Marginalization: the distribution of a token two or three places ahead, given only the text before.
//!
//! p(z) is the sum over the tokens y in between of p(y) p(z | y), taken over the nucleus of p(y) (arXiv 2502.09419, Eq. 6).
//! Every y is a row over the cached text; 32 of them are one forward pass, a batch of siblings. Their softmaxes are
//! weighted and added on the GPU: logits never come back, only the list of the likeliest tokens does.

mod answer;
mod batch;
mod draft;
mod options;
mod text;
mod tree;
mod workspace;

pub use answer::{Cost, Marginals, Prediction, Reference, SLACK, TextPosition, TopToken};
pub(crate) use batch::Run;
pub use options::MarginalOptions;
pub(crate) use text::TextReader;
pub(crate) use workspace::Workspace;
