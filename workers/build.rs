//! Compiles llama.cpp's CPU code once more for each kind of newer processor; `src/models/processor.rs` takes the best that runs.
//!
//! `llama-cpp-sys-2` compiles it for AVX2. Its feature `dynamic-backends` has all kinds, but as shared libraries that have to
//! lie beside the binary. Here a kind becomes one object that shows nothing but its entry, so all fit into one binary.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// What a kind is called, and what its compiler may use beside AVX2, FMA, F16C and BMI2 (the names and sets of llama.cpp's
/// own variants, `ggml/src/CMakeLists.txt`). `src/models/processor.rs` asks the processor for the same.
const KINDS: [(&str, &[&str]); 2] = [
    ("alderlake", &["-mavxvnni"]),
    ("cascadelake", &["-mavx512f", "-mavx512cd", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mavx512vnni"]),
];
const ENTRY: &str = "ggml_backend_cpu_reg";
/// Where llama.cpp's CPU code lies.
const SOURCES: &str = "/ggml/src/ggml-cpu/";
/// What of it computes with quantized weights, and what tells which code that is.
const QUANTIZED: [&str; 4] = ["arch/", "llamafile/", "tiled/", "ggml-cpu.c"];

/// An entry of CMake's `compile_commands.json`.
#[derive(Deserialize)]
struct Compilation {
    directory: PathBuf,
    command: String,
    file: String,
}

impl Compilation {
    fn is_quantized(&self) -> bool {
        self.file.split_once(SOURCES).is_some_and(|(_, name)| QUANTIZED.iter().any(|of| name.starts_with(of)))
    }

    /// What CMake made of it.
    fn object(&self) -> Result<PathBuf> {
        let mut words = self.command.split_whitespace().skip_while(|word| *word != "-o").skip(1);
        Ok(self.directory.join(words.next().with_context(|| format!("no output: {}", self.command))?))
    }
}

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(cpu_kinds)");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|has| has == value);
    let native = env::var("HOST")? == env::var("TARGET")?;
    if env::var_os("CARGO_FEATURE_LLAMA").is_none()
        || !native
        || !is("CARGO_CFG_TARGET_ARCH", "x86_64")
        || !is("CARGO_CFG_TARGET_OS", "linux")
    {
        return Ok(());
    }
    let built =
        PathBuf::from(env::var_os("DEP_LLAMA_GGML_CMAKE_DIR").context("llama-cpp-sys-2 does not say where it built")?);
    let commands = built.join("../../build/compile_commands.json");
    let all: Vec<Compilation> = std::fs::read(&commands)
        .context("not read")
        .and_then(|text| Ok(serde_json::from_slice(&text)?))
        .with_context(|| format!("how llama.cpp is compiled: {}", commands.display()))?;
    let of_cpu = all.into_iter().filter(|one| one.file.contains(SOURCES));
    let (quantized, others): (Vec<_>, Vec<_>) = of_cpu.partition(Compilation::is_quantized);
    ensure!(!quantized.is_empty(), "{} names nothing in {SOURCES}", commands.display());
    let others = others.iter().map(Compilation::object).collect::<Result<Vec<_>>>()?;
    let out = PathBuf::from(env::var_os("OUT_DIR").context("no OUT_DIR")?);
    for (kind, flags) in KINDS {
        let objects = compile(&quantized, flags, &out.join(kind))?;
        join(kind, objects.iter().chain(&others), &out)?;
    }
    println!("cargo:rerun-if-changed={}", commands.display());
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-cfg=cpu_kinds");
    Ok(())
}

/// Compiles files as CMake did, but with more `flags`, several at a time; gives the objects. The files that do not compute with
/// quantized weights stay as they are: what they do with wider vectors is slower for small attention heads.
fn compile(files: &[Compilation], flags: &[&str], into: &Path) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(into)?;
    let jobs = env::var("NUM_JOBS")?.parse()?;
    let objects: Vec<_> = (0..files.len()).map(|number| into.join(format!("{number}.o"))).collect();
    for (files, objects) in files.chunks(jobs).zip(objects.chunks(jobs)) {
        let compiling = files.iter().zip(objects).map(|(file, object)| {
            // Of two outputs, compilers take the last.
            let command = format!("{} {} -o '{}'", file.command, flags.join(" "), object.display());
            let process = Command::new("sh").arg("-c").arg(&command).current_dir(&file.directory).spawn()?;
            Ok((command, process))
        });
        for (command, mut process) in compiling.collect::<Result<Vec<_>>>()? {
            let status = process.wait()?;
            ensure!(status.success(), "{command}: {status}");
        }
    }
    Ok(objects)
}

/// One library of one object, which shows nothing but its entry, under a name of its own.
fn join<'a>(kind: &str, objects: impl Iterator<Item = &'a PathBuf>, out: &Path) -> Result<()> {
    let (object, entry) = (out.join(format!("{kind}.o")), format!("{ENTRY}_{kind}"));
    // Without its groups: of inline functions that several kinds have, the linker would keep one kind's for all.
    run(Command::new("ld").args(["-r", "--force-group-allocation", "-o"]).arg(&object).args(objects))?;
    // What GCC calls unique stays visible unless it is made weak first.
    let symbols = run(Command::new("nm").args(["--defined-only", "--format=posix"]).arg(&object))?;
    let unique = symbols.lines().filter_map(|line| line.split_once(" u ")).map(|(name, _)| name);
    run(Command::new("objcopy").args(unique.map(|name| format!("--weaken-symbol={name}"))).arg(&object))?;
    run(Command::new("objcopy")
        .arg(format!("--redefine-sym={ENTRY}={entry}"))
        .arg(format!("--keep-global-symbol={entry}"))
        .arg(&object))?;
    let library = out.join(format!("libggml_cpu_{kind}.a"));
    run(Command::new("ar").arg("crs").arg(&library).arg(&object))?;
    println!("cargo:rustc-link-lib=static=ggml_cpu_{kind}");
    Ok(())
}

/// Runs a command; gives what it wrote.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?} does not start"))?;
    ensure!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
