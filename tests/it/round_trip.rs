//! Any plan that can be laid out reads back as it was planned.

use geb::gguf::GgufFile;
use geb::gguf::writer::{MetaValue, Plan, write_to};
use geb::{Dtype, Error};
use proptest::prelude::*;

fn meta_value() -> impl Strategy<Value = MetaValue> {
    let text = "\\PC{0,12}";
    prop_oneof![
        any::<u8>().prop_map(MetaValue::U8),
        any::<i16>().prop_map(MetaValue::I16),
        any::<u64>().prop_map(MetaValue::U64),
        any::<f64>().prop_map(MetaValue::F64),
        any::<bool>().prop_map(MetaValue::Bool),
        text.prop_map(MetaValue::Str),
        prop::collection::vec(any::<i8>(), 0..9).prop_map(MetaValue::I8s),
        prop::collection::vec(any::<u16>(), 0..9).prop_map(MetaValue::U16s),
        prop::collection::vec(any::<i32>(), 0..9).prop_map(MetaValue::I32s),
        prop::collection::vec(any::<f32>(), 0..9).prop_map(MetaValue::F32s),
        prop::collection::vec(any::<bool>(), 0..9).prop_map(MetaValue::Bools),
        prop::collection::vec(any::<i64>(), 0..9).prop_map(MetaValue::I64s),
        prop::collection::vec(text, 0..9).prop_map(MetaValue::Strs),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Any plan that can be laid out reads back as it was planned.
    #[test]
    fn round_trip(
        keys in prop::collection::btree_map("[a-z.]{1,20}", meta_value(), 0..12),
        tensors in prop::collection::btree_map(
            "[a-z0-9._]{1,64}",
            (0..Dtype::ALL.len(), 1..3u64, prop::collection::vec(1..4u64, 0..4)),
            0..12,
        ),
        align in prop::sample::select(vec![8u32, 32, 256]),
    ) {
        let mut plan = Plan::default();
        plan.metadata.extend(keys);
        plan.set_meta("general.alignment", align);
        for (name, (t, blocks, rest)) in tensors {
            let dtype = Dtype::ALL[t];
            let mut dims = vec![blocks * dtype.block_len() as u64];
            dims.extend(rest);
            plan.push_tensor(name, dtype, dims);
        }
        let layout = plan.layout().unwrap();
        let bytes = |i: usize| (0..layout.tensors[i].end - layout.tensors[i].start).map(|b| (b as usize * 31 + i) as u8).collect::<Vec<_>>();
        let mut out = Vec::new();
        write_to(&mut out, &plan, &mut |i, w| w.write_all(&bytes(i)).map_err(Error::io("x"))).unwrap();
        prop_assert_eq!(out.len() as u64, layout.file_bytes);
        let file = GgufFile::from_bytes(out).unwrap();
        let mut back = Plan::default();
        back.copy_meta(&file, |_, _| true);
        for (i, t) in file.tensors().enumerate() {
            back.push_tensor(&t.info().name, t.dtype(), t.info().dims.clone());
            prop_assert_eq!(t.bytes(), &bytes(i)[..]);
        }
        prop_assert_eq!(&format!("{back:?}"), &format!("{plan:?}"));
        prop_assert!(file.index().warnings.is_empty());
    }
}
