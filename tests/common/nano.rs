//! geb-nano, the small trained model of the repository, ready to run.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use geb::Dtype;
use geb::gguf::{GgufFile, Load};
use geb::model::Model;
use geb::session::{Session, SessionOptions};
use geb::tokenizer::{Encode, Tokenizer};
use geb_convert::{self as convert, convert};

/// geb-nano as a GGUF file of this type, made once per type and test program.
pub fn nano(dtype: Dtype) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().expect("no panic before");
    let program = env!("CARGO_CRATE_NAME");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{program}-nano-{dtype}.gguf"));
    if !path.exists() {
        let source = Path::new(crate::common::ROOT).join("assets/geb-nano/hf");
        let options = convert::Options {
            policy: dtype.into(),
            ..Default::default()
        };
        convert(&source, &path, &options, &mut ()).expect("geb-nano converts");
    }
    path
}

/// A session of that file.
pub fn session_with(dtype: Dtype, options: &SessionOptions) -> Session {
    let file = GgufFile::open(&nano(dtype), Load::Map).expect("own file");
    let model = Model::load(Arc::new(file)).expect("own model");
    Session::new(model, options).expect("session")
}

/// Ids of a text as it is.
pub fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, Encode::default()).expect("encodes")
}
