//! Files that were made to harm: a process of its own tries each first, and what it does not survive is not loaded.

use super::*;

const CHILD: &str = "models::tests::hostile::a_process_that_tries_a_file";

/// This test program, made to do nothing but try the file whose path follows.
fn child() -> Option<Vec<std::ffi::OsString>> {
    let program = std::env::current_exe().unwrap();
    Some(vec![program.into(), "--ignored".into(), "--exact".into(), CHILD.into()])
}

#[test]
#[ignore = "is the other process of the test below"]
fn a_process_that_tries_a_file() {
    let file = std::env::args().next_back().unwrap();
    assert!(file.ends_with(".gguf"), "run by the test below");
    if let Err(error) = crate::models::probe(Path::new(&file)) {
        eprintln!("{error:#}");
        std::process::exit(1);
    }
}

fn after(file: &[u8], key: &str) -> usize {
    file.windows(key.len()).position(|window| window == key.as_bytes()).unwrap() + key.len()
}

/// What a file can be wrong in, and still begin like a model.
fn hostile(whole: &[u8]) -> Vec<(String, Vec<u8>)> {
    let changed = |at: usize, bytes: &[u8]| {
        let mut file = whole.to_vec();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let number = |key: &str, number: u32| changed(after(whole, key) + 4, &number.to_le_bytes());
    let mut files = vec![
        ("tensors-without-end".into(), changed(8, &u64::MAX.to_le_bytes())),
        ("keys-without-end".into(), changed(16, &u64::MAX.to_le_bytes())),
        (
            "a-tensor-too-many".into(),
            changed(8, &(u64::from_le_bytes(whole[8..16].try_into().unwrap()) + 1).to_le_bytes()),
        ),
        ("no-layers".into(), number("llama.block_count", 0)),
        ("layers-without-end".into(), number("llama.block_count", u32::MAX)),
        ("no-heads".into(), number("llama.attention.head_count", 0)),
        ("heads-that-do-not-fit".into(), number("llama.attention.head_count", 5)),
        ("no-width".into(), number("llama.embedding_length", 0)),
        ("width-without-end".into(), number("llama.embedding_length", u32::MAX)),
        ("context-without-end".into(), number("llama.context_length", u32::MAX)),
        ("cut-in-the-weights".into(), whole[..whole.len() - 100_000].to_vec()),
        ("cut-at-the-weights".into(), whole[..whole.len() / 10].to_vec()),
    ];
    // A tensor that claims to be larger, of an unknown kind, and elsewhere.
    let tensor = after(whole, "blk.0.attn_q.weight");
    for (what, at, value) in [("larger", 4, u64::MAX / 2), ("of-no-kind", 20, 0xffff_ffff), ("elsewhere", 24, 1 << 60)]
    {
        files.push((format!("a-tensor-{what}"), changed(tensor + at, &value.to_le_bytes())));
    }
    // Bytes of the head that are other ones, always the same.
    let mut state = 1u64;
    for round in 0..8 {
        let mut file = whole.to_vec();
        for _ in 0..4 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            file[24 + (state >> 33) as usize % 30_000] = (state >> 24) as u8;
        }
        files.push((format!("scattered-{round}"), file));
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_a_file_the_engine_goes_on_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let whole = std::fs::read(shipped().join(format!("{PICO}.gguf"))).unwrap();
    let files = hostile(&whole);
    for (name, file) in &files {
        std::fs::write(directory.path().join(format!("{name}.gguf")), file).unwrap();
    }
    std::fs::write(directory.path().join("good.gguf"), &whole).unwrap();
    let (_service, handle) = start(|options| {
        options.model_dir = directory.path().to_owned();
        options.default_model = "good".into();
        options.probe = child();
        options.context_tokens = 512;
    });
    let mut refused = 0;
    for (name, _) in &files {
        let request = Request { model: Some(name.clone()), max_tokens: Some(4), ..ask("hello") };
        let ended = match generate(&handle, request) {
            Ok(receiver) => events(receiver).await.pop().unwrap(),
            Err(failure) => Event::Failed(failure),
        };
        // Some changes do no harm; what does is refused with the model's name.
        if let Event::Failed(failure) = ended {
            assert!(matches!(failure.kind, FailureKind::ModelCorrupt | FailureKind::Memory), "{name}: {failure:?}");
            assert!(failure.message.contains(name.as_str()), "{failure}");
            refused += 1;
        }
        assert_eq!(answer(&handle, ask("what is 2+2?")).await.0, "2 + 2 = 4", "after {name}");
    }
    assert!(refused >= 12, "{refused} of {} were refused", files.len());
}
