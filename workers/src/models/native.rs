//! llama.cpp itself: initialised once per process.

use std::sync::OnceLock;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::{LlamaCppError, LogOptions, send_logs_to_tracing};

use super::processor;

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

/// llama.cpp, initialised once per process.
pub(super) fn backend() -> Result<&'static LlamaBackend, StartError> {
    static BACKEND: OnceLock<Result<LlamaBackend, LlamaCppError>> = OnceLock::new();
    let backend = BACKEND.get_or_init(|| {
        send_logs_to_tracing(LogOptions::default());
        tracing::info!(code = processor::choose(), "llama.cpp computes on this processor");
        LlamaBackend::init()
    });
    backend.as_ref().map_err(StartError::Backend)
}

#[cfg(test)]
mod tests {
    use llama_cpp_2::{LlamaBackendDeviceType, list_llama_ggml_backend_devices};

    #[test]
    fn one_kind_of_code_computes_on_the_processor() {
        super::backend().unwrap();
        let devices = list_llama_ggml_backend_devices();
        let processors = devices.iter().filter(|device| matches!(device.device_type, LlamaBackendDeviceType::Cpu));
        assert_eq!(processors.count(), 1, "{devices:?}");
    }
}
