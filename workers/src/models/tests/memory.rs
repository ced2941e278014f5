//! What the engine says that models take, held against what the process takes.

use super::*;

/// Resident bytes of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}

// The test runner gives each test a process; run otherwise, others would be counted too.
#[tokio::test(flavor = "multi_thread")]
async fn models_take_what_they_are_said_to_take() {
    if std::env::var_os("NEXTEST").is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    super::acceptance::stretched(directory.path(), 4096);
    std::fs::copy(shipped().join("all-minilm-l6-v2.q8_0.gguf"), directory.path().join("vectors.gguf")).unwrap();
    let (_service, handle) = start(|options| {
        options.model_dir = directory.path().to_owned();
        options.default_model = "long".into();
        options.default_embedding = "vectors".into();
        options.parallel = 32;
    });
    // llama.cpp's own and the allocator's, before any model.
    let _ = handle.models().await.unwrap();
    let before = resident();
    // All sequences filled, so that everything is touched.
    let full = |n: usize| Request {
        max_tokens: Some(16),
        ignore_eos: true,
        ..ask(&format!("{n} {}", "Anna likes tea. ".repeat(420)))
    };
    let all = futures::future::join_all((0..32).map(|n| answer(&handle, full(n)))).await;
    assert!(all.into_iter().all(|(_, end)| answered(end).usage.prompt_tokens > 3500));
    let (said, takes) = (handle.status().await.memory_used, resident() - before);
    let off = (takes as f64 - said as f64) / said as f64;
    assert!(off.abs() <= 0.1, "{said} bytes are accounted, {takes} are taken: {:+.1} %", off * 100.0);
}
