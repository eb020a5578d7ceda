//! GGUF files with tensors and keys changed.

use geb::gguf::writer::{Plan, write_to};
use geb::gguf::{GgufFile, TensorView};

/// A file to be, and the bytes of its tensors.
pub struct Changed {
    pub plan: Plan,
    pub data: Vec<Vec<u8>>,
}

impl Changed {
    pub fn of(file: &GgufFile) -> Changed {
        let mut plan = Plan::default();
        // Hashes of tensors that are no longer there would not hold.
        plan.copy_meta(file, |key, _| !key.starts_with("geb."));
        let mut changed = Changed {
            plan,
            data: Vec::new(),
        };
        for t in file.tensors() {
            changed.push(&t.info().name, &t);
        }
        changed
    }

    pub fn push(&mut self, name: &str, like: &TensorView<'_>) {
        let info = like.info();
        self.plan.push_tensor(name, info.dtype, info.dims.clone());
        self.data.push(like.bytes().to_vec());
    }

    pub fn remove(&mut self, part: &str) {
        let keep: Vec<bool> = self
            .plan
            .tensors
            .iter()
            .map(|t| !t.name.contains(part))
            .collect();
        let mut at = keep.iter();
        self.plan.tensors.retain(|_| *at.next().unwrap_or(&true));
        let mut at = keep.iter();
        self.data.retain(|_| *at.next().unwrap_or(&true));
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_to(&mut bytes, &self.plan, &mut |i, out| {
            out.write_all(&self.data[i]).expect("memory");
            Ok(())
        })
        .expect("a valid plan");
        bytes
    }
}
