//! llama.cpp itself: initialised once per process, where the processor can run it.

use std::sync::OnceLock;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::{LlamaCppError, LogOptions, send_logs_to_tracing};

use super::service::StartError;

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
