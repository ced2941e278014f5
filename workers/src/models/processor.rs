//! Which of llama.cpp's code this processor runs: the best of what is compiled in (`build.rs`).

use super::native::StartError;

/// What all of the code uses; without it the process would die of an illegal instruction.
pub(super) fn check() -> Result<(), StartError> {
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

/// Has llama.cpp compute with the code for this processor from now on; gives its name.
#[cfg(cpu_kinds)]
#[allow(unsafe_code, reason = "the binding of llama.cpp has no safe way to its backends")]
pub(super) fn choose() -> &'static str {
    use std::arch::is_x86_feature_detected;

    use llama_cpp_sys_2::{ggml_backend_cpu_reg, ggml_backend_reg_t, ggml_backend_register, ggml_backend_unload};

    unsafe extern "C" {
        fn ggml_backend_cpu_reg_alderlake() -> ggml_backend_reg_t;
        fn ggml_backend_cpu_reg_cascadelake() -> ggml_backend_reg_t;
    }

    let has_avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni");
    let (name, entry): (_, unsafe extern "C" fn() -> _) = if has_avx512 {
        ("cascadelake", ggml_backend_cpu_reg_cascadelake)
    } else if is_x86_feature_detected!("avxvnni") {
        ("alderlake", ggml_backend_cpu_reg_alderlake)
    } else {
        return "haswell";
    };
    // SAFETY: the entries take nothing and give a registration that lasts as long as the process. The registry changes before
    // there is a model or a context, in the one thread that initialises llama.cpp (`native::backend`). What this code uses,
    // the processor has.
    unsafe {
        ggml_backend_register(entry());
        ggml_backend_unload(ggml_backend_cpu_reg());
    }
    name
}

#[cfg(not(cpu_kinds))]
pub(super) fn choose() -> &'static str {
    std::env::consts::ARCH
}
