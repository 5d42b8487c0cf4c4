//! The state that a training goes on from: parameters, moments and the number of steps, as bytes.

use std::collections::BTreeMap;

use super::Trainer;
use crate::format::safetensors::serialize_f32;
use crate::{Error, Result};

/// A state tells the number of steps in two halves, each below this and so exact in f32.
const STEPS_HALF: u64 = 1 << 20;

impl Trainer {
    /// Everything that training goes on from, exactly: values, moments and the number of steps.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device).
    pub async fn state(&self) -> Result<Vec<u8>> {
        let mut tensors = BTreeMap::new();
        for (index, parameter) in self.parameters.all.iter().enumerate() {
            for (kind, buffer) in parameter.kept() {
                let values: Vec<f32> = self.model.gpu.read(buffer).await?;
                let values = values[..parameter.count].to_vec();
                tensors.insert(parameter.key(index, kind), (vec![parameter.count], values));
            }
        }
        let steps = [(self.steps / STEPS_HALF) as f32, (self.steps % STEPS_HALF) as f32];
        tensors.insert("steps".to_owned(), (vec![2], steps.to_vec()));
        serialize_f32("state", &tensors)
    }

    /// Goes on from a [`Trainer::state`] of the same heads and options.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) for anything else; nothing has been changed then.
    /// [`ErrorKind::Device`](crate::ErrorKind::Device).
    pub async fn restore(&mut self, state: &[u8]) -> Result<()> {
        let wrong = |what: String| Error::format(format!("the state of the training: {what}"));
        let tensors = ::safetensors::SafeTensors::deserialize(state)
            .map_err(|error| wrong(error.to_string()).caused_by(error))?;
        let values = |name: &str, count: usize| -> Result<Vec<f32>> {
            let view = tensors.tensor(name).map_err(|error| wrong(error.to_string()).caused_by(error))?;
            let (words, _) = view.data().as_chunks::<4>();
            if view.dtype() != ::safetensors::Dtype::F32 || words.len() != count {
                let (dtype, got) = (view.dtype(), words.len());
                return Err(wrong(format!("\"{name}\": expected {count} values of F32, got {got} of {dtype}")));
            }
            Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
        };
        let steps = values("steps", 2)?;
        if let Some(half) = steps.iter().find(|half| half.fract() != 0.0 || !(0.0..STEPS_HALF as f32).contains(*half)) {
            return Err(wrong(format!("\"steps\": expected whole numbers below {STEPS_HALF}, got {half}")));
        }
        let mut writes = Vec::new();
        for (index, parameter) in self.parameters.all.iter().enumerate() {
            for (kind, buffer) in parameter.kept() {
                writes.push((buffer, values(&parameter.key(index, kind), parameter.count)?));
            }
        }
        writes.iter().for_each(|(buffer, values)| self.model.gpu.write(buffer, 0, values));
        self.model.gpu.flush_writes().await?;
        self.steps = steps[0] as u64 * STEPS_HALF + steps[1] as u64;
        Ok(())
    }
}
