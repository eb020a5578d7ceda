//! Mixers that keep a state: which layers have one, and their sizes.

use super::arch::{FULL_EVERY, MixerKind, StateLayers};
use super::keys::Keys;
use crate::error::{Error, Result};
use crate::gguf::{GgufFile, Value, ValueType};
use crate::limits;

/// Sizes of a recurrent mixer. Its state is `[inner, state]`, beside the last inputs it has seen.
#[derive(Clone, Copy, Debug)]
pub struct Recurrent {
    /// Heads; of Mamba 1 one, of a delta net those of the values.
    pub heads: usize,
    /// Width of all heads, D.
    pub inner: usize,
    /// Elements of state for each of them, N; of a delta net the size of a key. 0: the inputs alone.
    pub state: usize,
    /// Tokens that the convolution sees.
    pub conv: usize,
    /// Rank of the step size (Mamba 1).
    pub rank: usize,
    /// Groups of heads that share B and C (Mamba 2); heads of queries and keys (delta net).
    pub groups: usize,
    /// Step size, B and C are normed (FalconMamba).
    pub normed: bool,
    /// Epsilon of the norms inside: of each head (RWKV), of step size, B and C (FalconMamba).
    pub mixer_epsilon: f32,
}

/// The whole number of times that `n` is in `whole`.
fn divides(keys: &Keys<'_>, suffix: &str, n: usize, whole: usize) -> Result<usize> {
    match whole.is_multiple_of(n) {
        true => Ok(whole / n),
        false => keys.bad(suffix, n, format!("a divisor of {whole}")),
    }
}

impl Recurrent {
    /// Sizes of a mixer that keeps a state, if the architecture has one.
    pub(super) fn read(keys: &Keys<'_>, width: usize) -> Result<Option<Recurrent>> {
        let mut r = Recurrent {
            heads: 1,
            inner: width,
            state: 0,
            conv: 1,
            rank: 0,
            groups: 1,
            normed: false,
            mixer_epsilon: 64e-5,
        };
        match keys.arch.mixer {
            MixerKind::Attention => return Ok(None),
            MixerKind::Rwkv6 | MixerKind::Rwkv7 => {
                r.state = keys.required("wkv.head_size", limits::MAX_WIDTH)?;
                r.heads = divides(keys, "wkv.head_size", r.state, width)?;
                let epsilon = keys.float("wkv.head_norm_epsilon", 0.0..=1.0)?;
                r.mixer_epsilon = epsilon.unwrap_or(r.mixer_epsilon);
            }
            MixerKind::Mamba | MixerKind::Mamba2 => r.read_mamba(keys)?,
            MixerKind::ShortConv => {
                r.conv = keys.required("shortconv.l_cache", limits::MAX_CONV)?;
            }
            MixerKind::DeltaNet => r.read_delta_net(keys)?,
        }
        Ok(Some(r))
    }

    fn read_mamba(&mut self, keys: &Keys<'_>) -> Result<()> {
        let size = |suffix| keys.required(suffix, limits::MAX_WIDTH);
        self.conv = keys.required("ssm.conv_kernel", limits::MAX_CONV)?;
        (self.inner, self.state) = (size("ssm.inner_size")?, size("ssm.state_size")?);
        self.rank = size("ssm.time_step_rank")?;
        let normed = keys.file.bool(&keys.key("ssm.dt_b_c_rms"))?;
        self.normed = normed.unwrap_or(false);
        let epsilon = match keys.float("ssm.dt_b_c_rms_epsilon", 0.0..=1.0)? {
            None => keys.float("attention.layer_norm_rms_epsilon", 0.0..=1.0)?,
            epsilon => epsilon,
        };
        self.mixer_epsilon = epsilon.unwrap_or(self.mixer_epsilon);
        if keys.arch.mixer == MixerKind::Mamba2 {
            self.heads = self.rank;
            divides(keys, "ssm.time_step_rank", self.heads, self.inner)?;
            self.groups = keys.int("ssm.group_count", limits::MAX_HEADS)?.unwrap_or(1);
            divides(keys, "ssm.group_count", self.groups, self.heads)?;
        }
        Ok(())
    }

    fn read_delta_net(&mut self, keys: &Keys<'_>) -> Result<()> {
        self.conv = keys.required("ssm.conv_kernel", limits::MAX_CONV)?;
        self.inner = keys.required("ssm.inner_size", limits::MAX_WIDTH)?;
        self.state = keys.required("ssm.state_size", limits::MAX_WIDTH)?;
        self.heads = keys.required("ssm.time_step_rank", limits::MAX_HEADS)?;
        divides(keys, "ssm.time_step_rank", self.heads, self.inner)?;
        self.groups = keys.required("ssm.group_count", limits::MAX_HEADS)?;
        divides(keys, "ssm.group_count", self.groups, self.heads)?;
        Ok(())
    }
}

/// What mixes the tokens in each layer; `kv`: its KV heads.
pub(super) fn mixers(keys: &Keys<'_>, kv: &[usize]) -> Result<Vec<MixerKind>> {
    let of = |keeps: bool| match keeps {
        true => keys.arch.mixer,
        false => MixerKind::Attention,
    };
    match keys.arch.state_layers {
        StateLayers::All => Ok(vec![keys.arch.mixer; kv.len()]),
        StateLayers::WithoutHeads => Ok(kv.iter().map(|n| of(*n == 0)).collect()),
        StateLayers::Listed => Ok(listed(keys, kv.len())?.into_iter().map(of).collect()),
    }
}

/// Which of the layers keep a state, by a list of them or by how often one does not.
fn listed(keys: &Keys<'_>, layers: usize) -> Result<Vec<bool>> {
    let every = keys.int("full_attention_interval", limits::MAX_LAYERS)?;
    let every = every.unwrap_or(FULL_EVERY);
    let key = keys.key("attention.recurrent_layers");
    if keys.file.get(&key).is_none() {
        return Ok((1..=layers).map(|l| !l.is_multiple_of(every)).collect());
    }
    let array = GgufFile::require(&key, keys.file.array(&key, ValueType::Bool)?)?;
    let list: Vec<bool> = array.iter().map(|v| v == Value::Bool(true)).collect();
    match list.get(..layers) {
        Some(list) => Ok(list.to_vec()),
        None => Err(Error::Key {
            key,
            value: format!("{} values", list.len()),
            allowed: format!("one for each of {layers} layers"),
        }),
    }
}
