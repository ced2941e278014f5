# Included by llama.cpp's CMake project: `llama-cpp-sys-2` turns its `common` library on with no way to say no.
set(LLAMA_BUILD_COMMON OFF)
