//! Structured mutants: a valid file with one to four fields changed to boundary values,
//! entries swapped, repeated or dropped, bytes flipped, or the end cut off.

use super::gguf::File;

/// xorshift64*: small, seedable, good enough to choose mutations.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Values around every limit of the format.
const BOUNDARY: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    12,
    13,
    31,
    32,
    33,
    40,
    42,
    43,
    63,
    64,
    65,
    255,
    256,
    257,
    65_535,
    65_536,
    65_537,
    (1 << 24) - 1,
    1 << 24,
    (1 << 24) + 1,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 40) - 1,
    1 << 40,
    (1 << 40) + 1,
    1 << 48,
    (1 << 62) + 1,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 31,
    u64::MAX,
];

/// Mutant number `seed` of `base`.
pub fn mutant(base: &File, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut file = base.clone();
    if rng.below(4) == 0 {
        reorder(&mut file, &mut rng);
    }
    let (mut bytes, fields) = file.encode_fields();
    for _ in 0..rng.below(5) {
        let field = fields[rng.below(fields.len())];
        let at = field.at..field.at + field.width;
        match rng.below(8) {
            0 => {
                // Off by one from the true value: the smallest lies are the hardest to see.
                let mut old = [0; 8];
                old[..field.width].copy_from_slice(&bytes[at.clone()]);
                let delta = rng.pick(&[1, u64::MAX, 32, 32u64.wrapping_neg()]);
                let new = u64::from_le_bytes(old).wrapping_add(delta).to_le_bytes();
                bytes[at].copy_from_slice(&new[..field.width]);
            }
            1 => {
                let other = fields[rng.below(fields.len())];
                if other.width == field.width {
                    let (a, b) = (
                        bytes[at.clone()].to_vec(),
                        bytes[other.at..other.at + other.width].to_vec(),
                    );
                    bytes[at].copy_from_slice(&b);
                    bytes[other.at..other.at + other.width].copy_from_slice(&a);
                }
            }
            2 => {
                let i = rng.below(bytes.len());
                bytes[i] = rng.next() as u8;
            }
            _ => {
                let value = rng.pick(BOUNDARY).to_le_bytes();
                bytes[at].copy_from_slice(&value[..field.width]);
            }
        }
    }
    if rng.below(8) == 0 {
        bytes.truncate(rng.below(bytes.len()));
    }
    bytes
}

/// Swaps, repeats, drops or retypes whole entries.
fn reorder(file: &mut File, rng: &mut Rng) {
    let (k, t) = (rng.below(file.keys.len()), rng.below(file.tensors.len()));
    match rng.below(8) {
        0 => {
            let j = rng.below(file.keys.len());
            file.keys.swap(k, j);
        }
        1 => {
            let j = rng.below(file.tensors.len());
            file.tensors.swap(t, j);
        }
        2 => file.keys.push(file.keys[k].clone()),
        3 => file.tensors.push(file.tensors[t].clone()),
        4 => drop(file.keys.remove(k)),
        5 => drop(file.tensors.remove(t)),
        6 => file.keys[k].ty = rng.below(14) as u32,
        _ => file.tensors[t].ty = rng.below(44) as u32,
    }
}
