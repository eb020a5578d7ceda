//! Tile registers (AMX): eight matrices of up to 16 rows of 64 bytes, and products of those of 8-bit integers.
//!
//! What a unit does is a program, the text of its instructions. The processor runs it assembled; the tests run the same
//! text with an interpreter, because the machines that this was written on have no such unit.

use core::arch::asm;

/// Products that one program makes.
pub(crate) const PRODUCTS: usize = 4;

/// I32 of a product: `[16 tokens][16 rows]`.
pub(crate) const PRODUCT: usize = 16 * 16;

/// `c[i] = a[i] b[i]` for four products: sums in tmm0 to tmm3, factors in two pairs of registers in turn, so that
/// one pair is loaded while the other is multiplied. Strides: `s32` of `a`, `s64` of `b` and `c`.
macro_rules! program {
    () => {
        "tilezero tmm0
        tilezero tmm1
        tilezero tmm2
        tilezero tmm3
        tileloadd tmm4, [{a0} + {s32}*1]
        tileloadd tmm6, [{b0} + {s64}*1]
        tileloadd tmm5, [{a1} + {s32}*1]
        tileloadd tmm7, [{b1} + {s64}*1]
        tdpbssd tmm0, tmm4, tmm6
        tileloadd tmm4, [{a2} + {s32}*1]
        tileloadd tmm6, [{b2} + {s64}*1]
        tdpbssd tmm1, tmm5, tmm7
        tileloadd tmm5, [{a3} + {s32}*1]
        tileloadd tmm7, [{b3} + {s64}*1]
        tdpbssd tmm2, tmm4, tmm6
        tdpbssd tmm3, tmm5, tmm7
        tilestored [{c} + {s64}*1], tmm0
        tilestored [{c} + {s64}*1 + 1024], tmm1
        tilestored [{c} + {s64}*1 + 2048], tmm2
        tilestored [{c} + {s64}*1 + 3072], tmm3"
    };
}

/// The shapes of the eight registers, as the instruction reads them: palette, row to begin with, then from byte 16 on the
/// bytes of a row of each register as words, from byte 48 on its rows.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Config([u8; 64]);

impl Config {
    /// For products of `tokens` x `columns` with `columns` x 16.
    pub const fn new(tokens: usize, columns: usize) -> Self {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        let mut register = 0;
        while register < 8 {
            let (rows, row_bytes) = match register {
                0..=3 => (tokens, 64),
                4..=5 => (tokens, columns),
                _ => (columns / 4, 64),
            };
            bytes[16 + 2 * register] = row_bytes as u8;
            bytes[48 + register] = rows as u8;
            register += 1;
        }
        Self(bytes)
    }
}

/// A unit of tile registers.
///
/// # Safety
/// A value may only be made where the unit is there, and used by the thread that configures it.
pub(crate) unsafe trait TileUnit {
    fn new() -> Self;

    /// Sets the shapes of the registers.
    ///
    /// # Safety
    /// This process must have been allowed to use them.
    unsafe fn configure(&mut self, config: &Config);

    /// Exact products: `a` of `[tokens][columns]` signed bytes, rows 32 bytes apart, `b` of `[columns / 4][16][4]`, to
    /// `c`, `[PRODUCTS][16][16]`, of which the rows of the tokens are written.
    ///
    /// # Safety
    /// The registers must be configured, the pointers valid for the shapes that they are configured for.
    unsafe fn multiply(&mut self, a: [*const u8; PRODUCTS], b: [*const u8; PRODUCTS], c: *mut i32);

    /// Gives the registers up, so that they need not be saved any more.
    ///
    /// # Safety
    /// As for `configure`.
    unsafe fn release(&mut self);
}

/// The unit of the processor.
pub(crate) struct Amx;

// SAFETY: `extension::int8_tiles` has found the unit and the permission to use it before `dispatch` hands out kernels
// with it. The compiler itself never uses these registers.
unsafe impl TileUnit for Amx {
    #[inline(always)]
    fn new() -> Self {
        Self
    }

    #[inline(always)]
    unsafe fn configure(&mut self, config: &Config) {
        // SAFETY: the 64 bytes are those of palette 1, which `extension::int8_tiles` has asked for.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) config, options(readonly, nostack, preserves_flags));
        }
    }

    #[inline(always)]
    unsafe fn multiply(&mut self, a: [*const u8; PRODUCTS], b: [*const u8; PRODUCTS], c: *mut i32) {
        // SAFETY: `ops::groups` configures the registers first, and gives pointers into its own sums and into the run
        // that `multiply::tile` makes.
        unsafe {
            asm!(
                program!(),
                a0 = in(reg) a[0], a1 = in(reg) a[1], a2 = in(reg) a[2], a3 = in(reg) a[3],
                b0 = in(reg) b[0], b1 = in(reg) b[1], b2 = in(reg) b[2], b3 = in(reg) b[3],
                c = in(reg) c, s32 = in(reg) 32usize, s64 = in(reg) 64usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn release(&mut self) {
        // SAFETY: it needs no configuration.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
    }
}

#[cfg(test)]
pub(crate) mod emulated {
    use super::*;

    /// A unit in plain code: what the instructions are documented to do, on the text of the program.
    pub(crate) struct Emulated {
        config: Option<Config>,
        /// `[16 rows][64]` bytes each.
        tiles: [[[u8; 64]; 16]; 8],
    }

    impl Emulated {
        /// Rows and bytes of a row.
        fn shape(&self, tile: usize) -> [usize; 2] {
            let Config(bytes) = self.config.expect("no tile is configured");
            assert_eq!(bytes[0], 1, "palette");
            assert!(bytes[1..16].iter().all(|b| *b == 0), "start and reserved");
            let row_bytes = u16::from_le_bytes([bytes[16 + 2 * tile], bytes[17 + 2 * tile]]);
            let [rows, row_bytes] = [usize::from(bytes[48 + tile]), usize::from(row_bytes)];
            assert!((1..=16).contains(&rows) && (1..=64).contains(&row_bytes));
            [rows, row_bytes]
        }

        fn load(&mut self, tile: usize, from: *const u8, stride: usize) {
            let [rows, row_bytes] = self.shape(tile);
            self.tiles[tile] = [[0; 64]; 16];
            for (r, row) in self.tiles[tile].iter_mut().enumerate().take(rows) {
                // SAFETY: `ops::groups` gives pointers that are valid for the configured shape.
                unsafe { from.add(r * stride).copy_to(row.as_mut_ptr(), row_bytes) }
            }
        }

        fn store(&self, tile: usize, to: *mut u8, stride: usize) {
            let [rows, row_bytes] = self.shape(tile);
            for (r, row) in self.tiles[tile].iter().enumerate().take(rows) {
                // SAFETY: as for `load`.
                unsafe { to.add(r * stride).copy_from(row.as_ptr(), row_bytes) }
            }
        }

        /// Adds to each I32 of `c` the products of four signed bytes of a row of `a` and a column of `b`, for all fours.
        fn dot(&mut self, c: usize, a: usize, b: usize) {
            let ([m, n], [m_a, k], [fours, n_b]) = (self.shape(c), self.shape(a), self.shape(b));
            assert!(m == m_a && n == n_b && k == 4 * fours && n.is_multiple_of(4));
            for row in 0..m {
                for column in 0..n / 4 {
                    let at = 4 * column;
                    let mut sum: i32 =
                        bytemuck::pod_read_unaligned(&self.tiles[c][row][at..at + 4]);
                    for k in 0..k {
                        let weight = self.tiles[b][k / 4][at + k % 4] as i8;
                        sum += i32::from(self.tiles[a][row][k] as i8) * i32::from(weight);
                    }
                    self.tiles[c][row][at..at + 4].copy_from_slice(&sum.to_le_bytes());
                }
            }
        }

        /// One instruction; `value` is that of an operand of the program.
        fn run(&mut self, line: &str, value: impl Fn(&str) -> usize) {
            let line = line.replace("*1", "");
            let words = line.split([' ', ',', '[', ']', '+']);
            let words: Vec<&str> = words.filter(|w| !w.is_empty()).collect();
            let tile = |w: &str| w.strip_prefix("tmm").and_then(|n| n.parse().ok());
            let tile = |w: &str| -> usize { tile(w).unwrap_or_else(|| panic!("{line}: {w}")) };
            match words[..] {
                ["tilezero", t] => self.tiles[tile(t)] = [[0; 64]; 16],
                ["tileloadd", t, base, stride] => {
                    let from = value(base) as *const u8;
                    self.load(tile(t), from, value(stride));
                }
                ["tdpbssd", c, a, b] => self.dot(tile(c), tile(a), tile(b)),
                ["tilestored", base, stride, t] => {
                    let to = value(base) as *mut u8;
                    self.store(tile(t), to, value(stride));
                }
                ["tilestored", base, stride, offset, t] => {
                    let to = value(base) as *mut u8;
                    let offset: usize = offset.parse().expect("a number");
                    self.store(tile(t), to.wrapping_add(offset), value(stride));
                }
                _ => panic!("no such instruction: {line}"),
            }
        }
    }

    // SAFETY: it needs no unit.
    unsafe impl TileUnit for Emulated {
        fn new() -> Self {
            let tiles = [[[0x55; 64]; 16]; 8];
            Self {
                config: None,
                tiles,
            }
        }

        unsafe fn configure(&mut self, config: &Config) {
            self.config = Some(*config);
            self.tiles = [[[0; 64]; 16]; 8];
        }

        unsafe fn multiply(
            &mut self,
            a: [*const u8; PRODUCTS],
            b: [*const u8; PRODUCTS],
            c: *mut i32,
        ) {
            let value = |operand: &str| match operand {
                "{s32}" => 32,
                "{s64}" => 64,
                "{c}" => c.expose_provenance(),
                _ => {
                    let factors = [("{a", a), ("{b", b)];
                    let named = |(name, p): &(&str, [*const u8; PRODUCTS])| {
                        let rest = operand.strip_prefix(name)?.strip_suffix('}')?;
                        Some(p[rest.parse::<usize>().ok()?].expose_provenance())
                    };
                    let found = factors.iter().find_map(named);
                    found.unwrap_or_else(|| panic!("no such operand: {operand}"))
                }
            };
            for line in program!().lines() {
                self.run(line, value);
            }
        }

        unsafe fn release(&mut self) {
            self.config = None;
        }
    }

    /// A unit whose last product is one too large in one place.
    pub(crate) struct OffByOne(Emulated);

    // SAFETY: it needs no unit.
    unsafe impl TileUnit for OffByOne {
        fn new() -> Self {
            Self(Emulated::new())
        }

        unsafe fn configure(&mut self, config: &Config) {
            // SAFETY: this is the contract of the trait too.
            unsafe { self.0.configure(config) }
        }

        unsafe fn multiply(
            &mut self,
            a: [*const u8; PRODUCTS],
            b: [*const u8; PRODUCTS],
            c: *mut i32,
        ) {
            // SAFETY: this is the contract of the trait too; there is a first sum of the last product.
            unsafe {
                self.0.multiply(a, b, c);
                *c.add((PRODUCTS - 1) * PRODUCT) += 1;
            }
        }

        unsafe fn release(&mut self) {
            // SAFETY: this is the contract of the trait too.
            unsafe { self.0.release() }
        }
    }
}
