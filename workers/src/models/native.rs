//! llama.cpp itself: initialised once per process, where the processor can run it.

use std::sync::OnceLock;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::{LlamaCppError, LogOptions, send_logs_to_tracing};

/// Why the engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An option is out of its range.
    #[error("inference option {option} is {value}; it must be {range}")]
    Option {
        /// The field of [`Options`](super::Options).
        option: &'static str,
        /// What it was.
        value: u64,
        /// What it may be.
        range: &'static str,
    },
    /// llama.cpp is built for newer processors.
    #[error("this processor lacks {0}, which the local models need: use another machine or a remote provider")]
    Processor(&'static str),
    /// llama.cpp did not initialise.
    #[error("llama.cpp did not initialise: {0}")]
    Backend(&'static LlamaCppError),
}

/// What the portable build of llama.cpp uses; without it the process would die of an illegal instruction.
pub(super) fn check_processor() -> Result<(), StartError> {
    #[cfg(target_arch = "x86_64")]
    for (feature, present) in [
        ("AVX2", std::arch::is_x86_feature_detected!("avx2")),
        ("FMA", std::arch::is_x86_feature_detected!("fma")),
        ("F16C", std::arch::is_x86_feature_detected!("f16c")),
        ("BMI2", std::arch::is_x86_feature_detected!("bmi2")),
    ] {
        if !present {
            return Err(StartError::Processor(feature));
        }
    }
    Ok(())
}

/// llama.cpp, initialised once per process.
pub(super) fn backend() -> Result<&'static LlamaBackend, StartError> {
    static BACKEND: OnceLock<Result<LlamaBackend, LlamaCppError>> = OnceLock::new();
    let backend = BACKEND.get_or_init(|| {
        send_logs_to_tracing(LogOptions::default());
        LlamaBackend::init()
    });
    backend.as_ref().map_err(StartError::Backend)
}
