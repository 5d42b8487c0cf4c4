//! Low-rank changes of the backbone, merged into its matrices as they are read.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::upload::Tensor;
use crate::Result;
use crate::format::files::Files;
use crate::format::mtp::HeadSet;
use crate::format::safetensors::Dtype;

/// `scale * B A`, to be added to a matrix.
pub(super) struct Change {
    /// `[rank, inputs]`
    a: Vec<f32>,
    /// `[outputs, rank]`
    b: Vec<f32>,
    rank: usize,
    scale: f64,
}

/// Changes by the name of the weight they are added to.
#[derive(Default)]
pub(super) struct Changes(BTreeMap<String, Change>);

impl Changes {
    /// Reads those that heads bring for every row; the gated ones are no change of the base model.
    pub async fn read<F: Files>(set: &HeadSet<'_, F>) -> Result<Self> {
        let mut changes = BTreeMap::new();
        let Some(lora) = set.lora.as_ref().filter(|lora| !lora.gated) else { return Ok(Self(changes)) };
        for part in &lora.parts {
            let [a, b] = [values(set, &part.a).await?, values(set, &part.b).await?];
            let change = Change { a, b, rank: lora.rank, scale: lora.scale() };
            changes.insert(format!("{}.weight", part.linear), change);
        }
        Ok(Self(changes))
    }

    /// The change of the weight `name`.
    pub fn of(&self, name: &str) -> Option<&Change> {
        self.0.get(name)
    }
}

async fn values<F: Files>(set: &HeadSet<'_, F>, name: &str) -> Result<Vec<f32>> {
    let info = set.tensors.get(name).expect("HeadSet has checked its tensors");
    let bytes = set.tensors.read(info).await?;
    Ok(Tensor::new(info, bytes)?.to_f32())
}

impl Change {
    /// The changed matrix, in f32 whatever it was stored in; the sums are f64.
    pub fn apply<'a>(&self, tensor: &Tensor<'_>) -> Tensor<'a> {
        let mut matrix = tensor.to_f32();
        let inputs = tensor.row_len;
        for (row, out) in matrix.chunks_exact_mut(inputs).enumerate() {
            let mut sums = vec![0.0; inputs];
            for (r, a) in self.a.chunks_exact(inputs).enumerate() {
                let b = f64::from(self.b[row * self.rank + r]);
                sums.iter_mut().zip(a).for_each(|(sum, &a)| *sum += b * f64::from(a));
            }
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = (f64::from(*out) + self.scale * sum) as f32);
        }
        let bytes = matrix.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor { dtype: Dtype::F32, row_len: inputs, bytes: Cow::Owned(bytes) }
    }
}
