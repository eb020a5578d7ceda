//! Speed in rounds: every round measures all rows with every number of threads, so that whatever
//! else the machine does hits all of them alike; ratios are taken within a round.

use geb::session::Session;
use serde::{Deserialize, Serialize};

use crate::bench::{bytes_read, measure_decode, measure_prefill};
use crate::cpu_share::CpuTimes;
use crate::limits::{LARGE, read_gb_s};
use crate::report::Outcome;
use geb_eval::compare::result::{Speed, SpeedInfo, Spread};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Method {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Decoded tokens.
    pub decode: usize,
    /// Rounds that count.
    pub rounds: usize,
}

/// Sessions of all rows with one number of threads; the base first.
pub struct Lane {
    /// Worker threads.
    pub threads: usize,
    /// One per row.
    pub sessions: Vec<Session>,
}

/// Seconds of the counted rounds, and what the machine did meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// `[round][lane][row]`: prefill and decode.
    rounds: Vec<Vec<Vec<[f64; 2]>>>,
    /// Best reading of a large model per lane, GB/s.
    read: Vec<f64>,
    /// CPU share of other programs and of other machines, per round.
    others: Vec<[f64; 2]>,
}

impl Times {
    /// Rounds that were measured.
    pub fn done(&self) -> usize {
        self.rounds.len()
    }

    /// A round that does not count: it reads the files from disk and fills the caches.
    pub fn warm_up(&mut self, method: &Method, lanes: &mut [Lane]) -> Outcome {
        self.read.resize(lanes.len(), 0.0);
        self.round(method, lanes).map(|_| ())
    }

    /// One round; nothing of it is kept when it fails.
    pub fn advance(&mut self, method: &Method, lanes: &mut [Lane]) -> Outcome {
        let started = CpuTimes::now();
        let round = self.round(method, lanes)?;
        let share = started.zip(CpuTimes::now()).and_then(|(a, b)| b.since(&a));
        self.others.extend(share.map(|s| [s.others, s.stolen]));
        self.rounds.push(round);
        Ok(())
    }

    fn round(&mut self, method: &Method, lanes: &mut [Lane]) -> Outcome<Vec<Vec<[f64; 2]>>> {
        let mut round = Vec::new();
        for (lane, best) in lanes.iter_mut().zip(&mut self.read) {
            let mut times = vec![[0.0; 2]; lane.sessions.len()];
            // Nobody is always the first, or always behind the same neighbour's warm caches.
            let n = lane.sessions.len();
            for i in (0..n).map(|i| (i + self.rounds.len()) % n) {
                let session = &mut lane.sessions[i];
                let prefill = measure_prefill(session, 0, method.prompt)?.elapsed();
                let decode = measure_decode(session, 0, method.decode)?.elapsed();
                times[i] = [prefill.as_secs_f64(), decode.as_secs_f64()];
                let data = session.model().file().data();
                if data.len() as u64 >= LARGE {
                    let data = &data[..data.len().min(8 * LARGE as usize)];
                    *best = best.max(read_gb_s(session.kernels(), lane.threads, data));
                }
            }
            round.push(times);
        }
        Ok(round)
    }

    /// Speeds of a row, one per lane.
    pub fn speeds(&self, method: &Method, lanes: &[Lane], row: usize) -> Vec<Speed> {
        lanes
            .iter()
            .enumerate()
            .filter_map(|(l, lane)| self.speed(method, lane, l, row))
            .collect()
    }

    fn speed(&self, method: &Method, lane: &Lane, l: usize, row: usize) -> Option<Speed> {
        let all = |f: &dyn Fn(&[[f64; 2]]) -> f64| -> Option<Spread> {
            let values: Vec<f64> = self.rounds.iter().map(|r| f(&r[l])).collect();
            Spread::of(&values)
        };
        let rate = |kind: usize, tokens: usize| all(&|r| tokens as f64 / r[row][kind]);
        let ratio = |kind: usize| all(&|r| r[0][kind] / r[row][kind]);
        let session = &lane.sessions[row];
        let decode = rate(1, method.decode)?;
        let gb_s = decode.median * bytes_read(session, 0, method.decode) as f64 / 1e9;
        let large = session.model().file().file_bytes() >= LARGE;
        let read = self.read.get(l).copied().filter(|r| large && *r > 0.0);
        Some(Speed {
            threads: lane.threads,
            prefill: rate(0, method.prompt)?,
            decode,
            first_token_s: all(&|r| r[row][0])?.median,
            prefill_ratio: ratio(0)?,
            decode_ratio: ratio(1)?,
            decode_gb_s: gb_s,
            decode_share: read.map(|r| gb_s / r),
        })
    }

    /// The method and the machine's state, to be shown.
    pub fn info(&self, method: &Method, lanes: &[Lane]) -> SpeedInfo {
        let mean = |i: usize| {
            let n = self.others.len();
            (n > 0).then(|| self.others.iter().map(|o| o[i]).sum::<f64>() / n as f64)
        };
        let read = lanes.iter().zip(&self.read).filter(|(_, r)| **r > 0.0);
        SpeedInfo {
            prompt: method.prompt,
            decode: method.decode,
            rounds: self.done(),
            read_gb_s: read.map(|(l, r)| (l.threads, *r)).collect(),
            others: mean(0),
            stolen: mean(1),
        }
    }
}
