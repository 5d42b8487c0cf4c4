//! What a training needs on the GPU, known before anything is there: what it takes of a dry device.

use crate::{Error, ErrorKind, Result};

/// Bytes that a training needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Memory {
    /// Of the model and its heads.
    pub weights: u64,
    /// Of gradients and moments.
    pub trained: u64,
    /// Of what a micro-batch leaves for the way back.
    pub activations: u64,
    /// Of the largest buffer of a micro-batch.
    pub largest: u64,
}

/// What helps against too little memory.
pub(super) const ADVICE: &str = "use a smaller `sequences` with a larger `accumulate`, or a smaller `length`";

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.trained).saturating_add(self.activations)
    }

    /// Checks that the largest buffer is not above the `most` bytes that an adapter binds, and that all of it fits into
    /// `available` bytes, where those are known: WebGPU does not tell.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`], with advice.
    pub fn check(&self, most: u64, available: Option<u64>) -> Result<()> {
        let largest = self.largest;
        if largest > most {
            let message =
                format!("one buffer of a step needs {largest} bytes; the adapter binds at most {most}; {ADVICE}");
            return Err(Error::new(ErrorKind::OutOfMemory, message));
        }
        match available.filter(|&available| self.total() > available) {
            Some(available) => {
                let Self { weights, trained, activations, .. } = self;
                let message = format!(
                    "the training needs {} bytes ({weights} for the model, {trained} for gradients and moments, {activations} for a \
                     micro-batch); there are {available}; {ADVICE}",
                    self.total()
                );
                Err(Error::new(ErrorKind::OutOfMemory, message))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_memory_is_refused_with_advice() {
        let memory = Memory { weights: 10, trained: 20, activations: 30, largest: 15 };
        memory.check(15, None).unwrap();
        memory.check(15, Some(60)).unwrap();
        let error = memory.check(15, Some(59)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        assert!(
            error.to_string().contains("needs 60 bytes")
                && error.to_string().contains("there are 59; use a smaller `sequences`")
        );
        assert!(memory.check(14, None).unwrap_err().to_string().contains("binds at most 14; use a smaller"));
    }
}
