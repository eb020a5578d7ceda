//! Where formats, operations and instruction sets meet: the only list of target features.
//!
//! `level!` compiles every operation once per level, as functions with that level's features, and
//! fills the level's table. A new format is one line in `formats!`; a new level one `level!`.

#[cfg(all(target_arch = "x86_64", not(test)))]
use crate::extension;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::float::Fused;
use crate::float::{AttnQuery, AttnScratch, KvHead, KvRows, KvShape, KvSide, Plain};
use crate::format::search::Search;
use crate::format::{
    Blocks, FloatFormat, QuantFormat, float, grid, k6, k23, k45, q4, q5, q8, small, table,
};
use crate::layout::{ActKind, INT_ROWS, TileShape};
use crate::level::Level;
use crate::ops::fours::Fours;
use crate::ops::sparse::{ExpandJob, SparseJob};
use crate::ops::tile::Int8Tile;
use crate::ops::{DecodeJob, FillJob, MultiplyJob, UnpackJob};
use crate::table::{FloatOps, FormatOps, Kernels, LevelTable, PeakOps, SparseOps, TileOps};

/// The formats, in terms of the row constructors a level defines. Rare ones decode one token at a time:
/// the results are the same, and half of the machine code is saved.
macro_rules! formats {
    ($float:ident, $quant:ident, $rare:ident) => {
        &[
            $float::<float::F32>(),
            $float::<float::F16>(),
            $float::<float::Bf16>(),
            $quant::<q8::Q8_0>(),
            $quant::<q4::Q4_0>(),
            $quant::<q4::Q4_1>(),
            $quant::<q5::Q5_0>(),
            $quant::<q5::Q5_1>(),
            $rare::<k23::Q2K>(),
            $rare::<k23::Q3K>(),
            $quant::<k45::Q4K>(),
            $quant::<k45::Q5K>(),
            $quant::<k6::Q6K>(),
            $quant::<table::Iq4Nl>(),
            $rare::<table::Iq4Xs>(),
            $rare::<table::Mxfp4>(),
            $rare::<table::Nvfp4>(),
            $rare::<small::Tq1>(),
            $rare::<small::Tq2>(),
            $rare::<small::Q1>(),
            $rare::<small::Q2>(),
            $rare::<grid::Iq1S>(),
            $rare::<grid::Iq1M>(),
            $rare::<grid::Iq2Xxs>(),
            $rare::<grid::Iq2Xs>(),
            $rare::<grid::Iq2S>(),
            $rare::<grid::Iq3Xxs>(),
            $rare::<grid::Iq3S>(),
        ]
    };
}

/// The encoders on one kind of registers; levels that have the same ones share them.
macro_rules! encoders {
    ($module:ident, $part:ty $(, features $features:literal)?) => {
        mod $module {
            use super::*;
            use crate::isa::wide::{LANES, Part, Wide};

            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn quantize<F: Blocks>(x: &[f32], search: Search, out: &mut [u8]) {
                F::quantize::<Wide<$part, { LANES / <$part as Part>::N }>>(x, search, out);
            }
        }
    };
}

/// A module with the products of one tile kernel.
macro_rules! tile {
    ($module:ident, $name:literal, $isa:path, $tile:ty $(, features $features:literal)?) => {
        mod $module {
            use super::*;

            type Token = $isa;
            type Tile = $tile;

            $(#[target_feature(enable = $features)])?
            unsafe fn multiply<const SCALED: usize, const MINS: bool>(job: &MultiplyJob) {
                // SAFETY: `api` asserts every length of a job that it builds; the features are enabled here.
                unsafe { crate::ops::multiply::multiply::<Token, Tile, SCALED, MINS>($isa, job) }
            }

            pub(super) const OPS: TileOps = TileOps {
                name: $name,
                panel: <Tile as Int8Tile<Token>>::PANEL,
                tokens: <Tile as Int8Tile<Token>>::TOKENS,
                multiply: [
                    [multiply::<32, false>, multiply::<32, true>],
                    [multiply::<16, false>, multiply::<16, true>],
                ],
            };
        }
    };
}

/// A module with all kernels of one level.
///
/// The names are those of the integer and of the float products. `decode` lists the numbers of tokens with decode
/// kernels, `floats` those for plain numbers; `tile` is the kernel of integer tiles, `float` the most tokens of a
/// float tile; `encode` names the encoders.
macro_rules! level {
    ($module:ident, $level:ident $int_name:literal $float_name:literal, $isa:path, $math:ident, decode $($t:literal)+,
     floats $($few:literal)+, tile $tile:ty, float $float:literal, encode $encode:ident
     $(, features $features:literal)?) => {
        mod $module {
            use super::*;
            use crate::isa::Isa;
            use crate::ops;

            type Token = $isa;

            const TOKEN: Token = $isa;

            tile!(products, $int_name, $isa, $tile $(, features $features)?);

            $(#[target_feature(enable = $features)])?
            unsafe fn fill(job: &mut FillJob) {
                ops::fill::fill(TOKEN, job);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn dequantize<F: QuantFormat>(bytes: &[u8], out: &mut [f32]) {
                ops::unpack::dequantize::<F, Token>(TOKEN, bytes, out);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn dequantize_float<F: FloatFormat>(bytes: &[u8], out: &mut [f32]) {
                F::dequantize(bytes, out);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn decode<F: QuantFormat, const T: usize>(job: &DecodeJob) {
                // SAFETY: `api` asserts every length of a job that it builds; the features are enabled here.
                unsafe { ops::decode::decode::<F, Token, T>(TOKEN, job) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn unpack<F: QuantFormat>(job: &UnpackJob) {
                // SAFETY: as above.
                unsafe { ops::unpack::unpack::<F, Token>(TOKEN, job) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn decode_sparse<const T: usize>(job: &SparseJob) {
                // SAFETY: as above.
                unsafe { ops::sparse::decode::<Token, T>(TOKEN, job) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn expand(job: &ExpandJob) {
                // SAFETY: as above.
                unsafe { ops::sparse::expand(TOKEN, job) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn decode_float<F: FloatFormat, const T: usize>(
                job: &DecodeJob,
            ) {
                // SAFETY: as above.
                unsafe { ops::float::decode::<F, Token, crate::isa::product::Single, T>(TOKEN, job) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn unpack_float<F: FloatFormat>(job: &UnpackJob) {
                // SAFETY: as above.
                unsafe { ops::float::unpack::<F, Token>(TOKEN, job) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn multiply_float(job: &MultiplyJob) {
                // SAFETY: as above.
                unsafe { ops::float::multiply::<Token, crate::isa::product::Single, $float>(TOKEN, job) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
                crate::float::rms_norm::<$math>(x, weight, eps, out);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn add(x: &mut [f32], y: &[f32]) {
                crate::float::add(x, y);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn silu_mul(gate: &mut [f32], up: &[f32]) {
                crate::float::silu_mul::<$math>(gate, up);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn gelu_mul(gate: &mut [f32], up: &[f32]) {
                crate::float::gelu_mul::<$math>(gate, up);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn rms_norm_each(x: &mut [f32], weight: &[f32], eps: f32) {
                crate::float::rms_norm_each::<$math>(x, weight, eps);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn layer_norm(x: &[f32], affine: [&[f32]; 2], eps: f32, out: &mut [f32]) {
                crate::float::layer_norm::<$math>(x, affine, eps, out);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn rope(head: &mut [f32], cos: &[f32], sin: &[f32], adjacent: bool) {
                crate::float::rope::<$math>(head, cos, sin, adjacent);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn attend(
                a: &AttnQuery<'_>,
                kv: KvHead<'_>,
                partial: &mut [f32],
                scratch: &mut AttnScratch,
            ) {
                crate::float::attend::<Token, $math>(TOKEN, a, kv, partial, scratch);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn merge(shape: KvShape, total: &mut [f32], piece: &[f32]) {
                crate::float::merge::<$math>(shape, total, piece);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn store(shape: KvShape, side: KvSide, rows: KvRows<'_>, out: &mut [u8]) {
                crate::float::store(TOKEN, shape, side, rows, out);
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn exp_sum(x: &[f32], shift: f32) -> f64 {
                crate::float::exp_sum::<$math>(x, shift)
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn divergence(p: &[f32], q: &[f32], log_sums: [f64; 2]) -> f64 {
                crate::float::divergence::<$math>(p, q, log_sums)
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn peak_int8(steps: usize) -> u64 {
                // SAFETY: the features are enabled here.
                unsafe { ops::peak::int8(TOKEN, steps) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn peak_f32(steps: usize) -> u64 {
                // SAFETY: the features are enabled here.
                unsafe { ops::peak::f32(TOKEN, steps) }
            }

            $(#[target_feature(enable = $features)])?
            unsafe fn read(bytes: &[u8]) {
                // SAFETY: the features are enabled here.
                unsafe { ops::peak::read(TOKEN, bytes) }
            }

            const fn quant_row<F: QuantFormat>() -> FormatOps {
                FormatOps {
                    dtype: F::DTYPE,
                    name: products::OPS.name,
                    act: ActKind::Q8,
                    columns: 1,
                    group: F::GROUP,
                    mins: F::MINS,
                    writes: F::WRITES,
                    dequantize: dequantize::<F>,
                    quantize: $encode::quantize::<F>,
                    decode: &[$(decode::<F, $t>),+],
                    unpack: unpack::<F>,
                    multiply: products::OPS.product(F::GROUP, F::MINS),
                }
            }

            const fn rare_row<F: QuantFormat>() -> FormatOps {
                FormatOps { decode: &[decode::<F, 1>], ..quant_row::<F>() }
            }

            const fn float_row<F: FloatFormat>() -> FormatOps {
                FormatOps {
                    dtype: F::DTYPE,
                    name: $float_name,
                    act: ActKind::F32,
                    columns: 1,
                    group: 1,
                    mins: false,
                    writes: F::WRITES,
                    dequantize: dequantize_float::<F>,
                    quantize: $encode::quantize::<F>,
                    decode: &[$(decode_float::<F, $few>),+],
                    unpack: unpack_float::<F>,
                    multiply: multiply_float,
                }
            }

            const _: () = assert!(INT_ROWS.is_multiple_of(Token::ROWS) && Token::ROWS <= 16);

            pub(super) static KERNELS: LevelTable = LevelTable {
                level: Level::$level,
                tile_shape: TileShape {
                    decode_tokens: [$($t),+].len(),
                    float_decode_tokens: [$($few),+].len(),
                    int_tile: products::OPS.tokens,
                    float_tile: $float,
                    float_rows: 2 * Token::ROWS,
                    panel: products::OPS.panel,
                },
                formats: formats!(float_row, quant_row, rare_row),
                fill,
                sparse: SparseOps { decode: &[$(decode_sparse::<$t>),+], expand },
                peak: PeakOps { int8: peak_int8, f32: peak_f32, read },
                float: FloatOps {
                    rms_norm, rms_norm_each, layer_norm, add, silu_mul, gelu_mul, rope, attend, merge, store,
                    exp_sum, divergence,
                },
            };
        }
    };
}

encoders!(encode_plain, f32);
#[cfg(all(target_arch = "x86_64", not(test)))]
encoders!(encode_avx2, core::arch::x86_64::__m256, features "avx2,fma,f16c");
#[cfg(all(target_arch = "x86_64", not(test)))]
encoders!(encode_avx512, core::arch::x86_64::__m512,
    features "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq");
#[cfg(all(target_arch = "aarch64", not(test)))]
encoders!(encode_neon, core::arch::aarch64::float32x4_t, features "neon");

level!(scalar, Scalar "int8-scalar" "f32-scalar", crate::isa::scalar::Scalar, Plain, decode 1, floats 1, tile Fours<1>, float 1, encode encode_plain);

#[cfg(all(target_arch = "x86_64", not(test)))]
level!(avx2, Avx2 "int8-avx2" "f32-avx2", crate::isa::x86::Avx2, Fused, decode 1 2 3 4, floats 1 2 3 4, tile Fours<4>, float 6, encode encode_avx2,
    features "avx2,fma,f16c,popcnt");
#[cfg(all(target_arch = "x86_64", not(feature = "evex"), not(test)))]
level!(avxvnni, AvxVnni "int8-avxvnni" "f32-avx2", crate::isa::x86::AvxVnni, Fused, decode 1 2 3 4, floats 1 2 3 4, tile Fours<6>, float 6,
    encode encode_avx2, features "avx2,fma,f16c,popcnt,avxvnni");
#[cfg(all(target_arch = "x86_64", feature = "evex", not(test)))]
level!(avxvnni, AvxVnni "int8-avxvnni" "f32-avx2", crate::isa::x86::AvxVnni, Fused, decode 1 2 3 4, floats 1 2 3 4, tile Fours<6>, float 6,
    encode encode_avx2, features "avx2,fma,f16c,popcnt");
#[cfg(all(target_arch = "x86_64", not(test)))]
level!(avx512vnni, Avx512Vnni "int8-avx512vnni" "f32-avx512", crate::isa::x86_512::Avx512, Fused, decode 1 2 3 4,
    floats 1 2 3 4 5 6 7 8, tile Fours<14>, float 12,
    encode encode_avx512, features "avx2,fma,f16c,popcnt,bmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vnni");

#[cfg(all(target_arch = "aarch64", not(test)))]
level!(neon, Neon "int8-neon" "f32-neon", crate::isa::neon::Neon, Fused, decode 1 2 3 4, floats 1 2 3 4, tile Fours<4>, float 4,
    encode encode_neon, features "neon");
#[cfg(all(target_arch = "aarch64", not(test)))]
level!(neondot, NeonDot "int8-neondot" "f32-neon", crate::isa::neon::NeonDot, Fused, decode 1 2 3 4, floats 1 2 3 4, tile Fours<6>, float 6,
    encode encode_neon, features "neon,dotprod");
// Few tokens are multiplied with `sdot`, many with the matrix product.
#[cfg(all(target_arch = "aarch64", not(test)))]
static NEON_I8MM: LevelTable = LevelTable {
    level: Level::NeonI8mm,
    ..neondot::KERNELS
};
#[cfg(all(target_arch = "aarch64", not(test)))]
tile!(i8mm, "int8-neoni8mm", crate::isa::neon::NeonI8mm, crate::ops::eights::Eights<6>,
    features "neon,dotprod,i8mm");

/// BF16 as pairs, for processors that multiply them fast (AVX512_BF16): twice as fast as widening them,
/// with activations rounded to BF16 as well.
#[cfg(all(target_arch = "x86_64", not(test)))]
mod pairs {
    use super::*;
    use crate::isa::x86_512::{Avx512, Pairs};
    use crate::ops::float;

    /// A pair is moved about like one number of four bytes.
    type Raw = crate::format::float::F32;

    #[target_feature(
        enable = "avx2,fma,f16c,popcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vnni,avx512bf16"
    )]
    unsafe fn decode<const T: usize>(job: &DecodeJob) {
        // SAFETY: `api` asserts every length of a job that it builds; the features are enabled here.
        unsafe { float::decode::<Raw, Avx512, Pairs, T>(Avx512, job) }
    }

    #[target_feature(
        enable = "avx2,fma,f16c,popcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vnni,avx512bf16"
    )]
    unsafe fn unpack(job: &UnpackJob) {
        // SAFETY: as above.
        unsafe { float::unpack::<Raw, Avx512>(Avx512, job) }
    }

    #[target_feature(
        enable = "avx2,fma,f16c,popcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vnni,avx512bf16"
    )]
    unsafe fn multiply(job: &MultiplyJob) {
        // SAFETY: as above.
        unsafe { float::multiply::<Avx512, Pairs, 12>(Avx512, job) }
    }

    /// Needs AVX512_BF16 beside the features of the level.
    pub(super) const OPS: FormatOps = FormatOps {
        act: ActKind::Bf16,
        name: "bf16-avx512bf16",
        columns: 2,
        decode: &[
            decode::<1>,
            decode::<2>,
            decode::<3>,
            decode::<4>,
            decode::<5>,
            decode::<6>,
            decode::<7>,
            decode::<8>,
        ],
        unpack,
        multiply,
        ..avx512vnni::KERNELS.formats[2]
    };
    const _: () = assert!(matches!(OPS.dtype, crate::dtype::Dtype::BF16));
}

// Many tokens in tile registers.
#[cfg(all(target_arch = "x86_64", not(test)))]
tile!(amx, "int8-amx", crate::isa::x86_512::Avx512, crate::ops::groups::Groups<crate::isa::amx::Amx>,
    features "avx2,fma,f16c,popcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vnni");

/// Gives kernels what this machine has beyond their level.
pub(crate) fn extend(kernels: &mut Kernels) {
    #[cfg(all(target_arch = "x86_64", not(test)))]
    if kernels.level == Level::Avx512Vnni && extension::bf16_pairs() {
        kernels.put(pairs::OPS);
    }
    #[cfg(all(target_arch = "aarch64", not(test)))]
    if kernels.level == Level::NeonI8mm {
        kernels.take_tile(&i8mm::OPS);
    }
    let _ = kernels;
}

/// A tile kernel that this machine has beyond a level: to be tried, because those who wrote it could not.
pub(crate) fn on_trial(level: Level) -> Option<&'static TileOps> {
    #[cfg(all(target_arch = "x86_64", not(test)))]
    if level == Level::Avx512Vnni && extension::int8_tiles() {
        return Some(&amx::OPS);
    }
    let _ = level;
    None
}

/// The kernels of a level, if this build has them. Whether the machine does is the caller's check.
pub(crate) fn table(level: Level) -> Option<&'static LevelTable> {
    match level {
        Level::Scalar => Some(&scalar::KERNELS),
        #[cfg(all(target_arch = "x86_64", not(test)))]
        Level::Avx2 => Some(&avx2::KERNELS),
        #[cfg(all(target_arch = "x86_64", not(test)))]
        Level::AvxVnni => Some(&avxvnni::KERNELS),
        #[cfg(all(target_arch = "x86_64", not(test)))]
        Level::Avx512Vnni => Some(&avx512vnni::KERNELS),
        #[cfg(all(target_arch = "aarch64", not(test)))]
        Level::Neon => Some(&neon::KERNELS),
        #[cfg(all(target_arch = "aarch64", not(test)))]
        Level::NeonDot => Some(&neondot::KERNELS),
        #[cfg(all(target_arch = "aarch64", not(test)))]
        Level::NeonI8mm => Some(&NEON_I8MM),
        #[allow(unreachable_patterns)]
        _ => None,
    }
}

/// Tile kernels with a unit in plain code, for the level `Scalar`.
#[cfg(all(target_arch = "x86_64", test))]
pub(crate) mod emulated {
    use super::*;
    use crate::isa::amx::emulated::{Emulated, OffByOne};
    use crate::ops::groups::Groups;

    tile!(
        scalar,
        "int8-emulated",
        crate::isa::scalar::Scalar,
        Groups<Emulated>
    );
    tile!(
        wrong,
        "int8-wrong",
        crate::isa::scalar::Scalar,
        Groups<OffByOne>
    );
    tile!(avx512, "int8-emulated", crate::isa::x86_512::Avx512, Groups<Emulated>,
        features "avx2,fma,f16c,popcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vnni");

    /// A unit that is right but for one sum.
    pub(crate) const WRONG: TileOps = wrong::OPS;

    /// Those that this machine can run.
    pub(crate) fn tiles() -> impl Iterator<Item = TileOps> {
        let vectors = Level::Avx512Vnni.is_available().then_some(avx512::OPS);
        [scalar::OPS].into_iter().chain(vectors)
    }
}
