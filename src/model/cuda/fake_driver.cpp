// Replacements for libcuda, libcublas and libnvrtc, in one library under three names. Memory is the host's, kernels are
// the emulated ones, a product is three loops, and a graph is a list. They test the code that calls the driver without
// a GPU.

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "emulated.cpp"

namespace {
typedef std::vector<std::function<void()>> Graph;
Graph *capturing = nullptr;

int do_or_record(std::function<void()> what) {
    if (capturing) capturing->push_back(std::move(what));
    else what();
    return 0;
}
}  // namespace

#define CALL(name) extern "C" int name

CALL(cuInit)(unsigned) { return 0; }
CALL(cuGetErrorName)(int, const char **name) { return *name = "FAKE", 0; }
CALL(cuGetErrorString)(int, const char **text) { return *text = "a fake error", 0; }
CALL(cuDeviceGet)(int *device, int ordinal) { return *device = 0, ordinal == 0 ? 0 : 101; }
CALL(cuDevicePrimaryCtxRetain)(void **context, int) { return *context = (void *)1, 0; }
CALL(cuDevicePrimaryCtxRelease_v2)(int) { return 0; }
CALL(cuDeviceGetAttribute)(int *value, int attribute, int) {
    // Compute capability 9.0. Any other attribute is 1.
    return *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 1, 0;
}
CALL(cuCtxSetCurrent)(void *) { return 0; }
CALL(cuCtxGetCurrent)(void **context) { return *context = (void *)1, 0; }
CALL(cuCtxSynchronize)() { return 0; }
CALL(cuStreamCreate)(void **stream, unsigned) { return *stream = (void *)2, 0; }
CALL(cuStreamDestroy_v2)(void *) { return 0; }
CALL(cuStreamSynchronize)(void *) { return capturing ? 900 : 0; }
CALL(cuStreamWaitEvent)(void *, void *, unsigned) { return 0; }
CALL(cuMemAllocAsync)(uint64_t *at, size_t bytes, void *) { return *at = (uint64_t)std::malloc(bytes), capturing ? 900 : 0; }
CALL(cuMemAlloc_v2)(uint64_t *at, size_t bytes) { return *at = (uint64_t)std::malloc(bytes), capturing ? 900 : 0; }
CALL(cuMemFreeAsync)(uint64_t at, void *) { return std::free((void *)at), 0; }
CALL(cuMemFree_v2)(uint64_t at) { return std::free((void *)at), 0; }
CALL(cuMemsetD8Async)(uint64_t at, unsigned char value, size_t bytes, void *) { return std::memset((void *)at, value, bytes), 0; }
CALL(cuMemcpyHtoDAsync_v2)(uint64_t to, const void *from, size_t bytes, void *) { return std::memcpy((void *)to, from, bytes), 0; }
CALL(cuMemcpyDtoHAsync_v2)(void *to, uint64_t from, size_t bytes, void *) { return std::memcpy(to, (void *)from, bytes), 0; }
CALL(cuModuleLoadData)(void **module, const void *) { return *module = (void *)3, 0; }
CALL(cuModuleUnload)(void *) { return 0; }
CALL(cuModuleGetFunction)(void **function, void *, const char *name) {
    static std::map<std::string, int> names;
    return *function = (void *)names.emplace(name, 0).first->first.c_str(), 0;
}
CALL(cuLaunchKernel)(void *function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                     void *stream, void **arguments, void **) {
    if (z != 1 || bx != THREADS || by != 1 || bz != 1 || shared != 0 || stream != (void *)2) return 1;
    std::vector<uint64_t> values;
    for (int n = 0; arguments[n]; ++n) {
        values.push_back(0);
        std::memcpy(&values.back(), arguments[n], 8);
    }

    return do_or_record([=]() {
        std::vector<const void *> pointers;
        for (const uint64_t &value : values) pointers.push_back(&value);
        if (emulate((const char *)function, 0, x, y, pointers.data()) != (int)values.size()) std::abort();
    });
}
CALL(cuStreamBeginCapture_v2)(void *, int) { return capturing = new Graph, 0; }
CALL(cuStreamEndCapture)(void *, void **graph) { return *graph = capturing, capturing = nullptr, 0; }
CALL(cuGraphInstantiateWithFlags)(void **exec, void *graph, unsigned long long) { return *exec = graph, 0; }
CALL(cuGraphLaunch)(void *exec, void *) {

    for (const auto &step : *(Graph *)exec) step();
    return 0;
}
CALL(cuGraphExecDestroy)(void *) { return 0; }
CALL(cuGraphDestroy)(void *graph) { return delete (Graph *)graph, 0; }

CALL(cublasCreate_v2)(void **handle) { return *handle = (void *)4, 0; }
CALL(cublasGetProperty)(int which, int *value) { return *value = which == 0 ? 13 : which, 0; }
CALL(cublasDestroy_v2)(void *) { return 0; }
CALL(cublasSetStream_v2)(void *, void *stream) { return stream == (void *)2 ? 0 : 7; }
CALL(cublasSetWorkspace_v2)(void *, void *at, size_t bytes) { return at && bytes ? 0 : 7; }
CALL(cublasGemmEx)(void *handle, int op_a, int op_b, int m, int n, int k, const void *alpha, const void *a, int type_a, int lda,
                   const void *b, int type_b, int ldb, const void *beta, void *c, int type_c, int ldc, int compute, int algorithm) {
    // Accepts CUDA_R_32F, CUBLAS_COMPUTE_32F or its TF32 variant, and CUBLAS_GEMM_DEFAULT.
    if (handle != (void *)4 || type_a || type_b || type_c || (compute != 68 && compute != 77) || algorithm != -1) return 7;
    if (*(const float *)alpha != 1.0f || *(const float *)beta != 0.0f) return 7;
    if (lda < (op_a ? k : m) || ldb < (op_b ? n : k) || ldc < m) return 7;
    // The alignment that cuBLAS's documentation requires for TF32.
    if (compute == 77 && (((uint64_t)a | (uint64_t)b | (uint64_t)c) % 16 || (lda | ldb | ldc) % 4)) return 7;

    return do_or_record([=]() {
        const float *x = (const float *)a, *y = (const float *)b;
        for (int column = 0; column < n; ++column) {
            for (int row = 0; row < m; ++row) {
                double sum = 0.0;
                for (int i = 0; i < k; ++i)
                    sum += (double)x[op_a ? (int64_t)row * lda + i : (int64_t)i * lda + row] *
                           y[op_b ? (int64_t)i * ldb + column : (int64_t)column * ldb + i];
                ((float *)c)[(int64_t)column * ldc + row] = (float)sum;
            }
        }
    });
}

CALL(nvrtcCreateProgram)(void **program, const char *source, const char *, int, const void *, const void *) {
    return *program = (void *)5, std::strstr(source, "KERNEL(adam)") ? 0 : 3;
}
CALL(nvrtcVersion)(int *major, int *minor) { return *major = 13, *minor = 1, 0; }
CALL(nvrtcCompileProgram)(void *, int count, const char *const *options) {
    return count == 2 && !std::strcmp(options[0], "--gpu-architecture=sm_90") && !std::strcmp(options[1], "--fmad=false") ? 0 : 5;
}
CALL(nvrtcGetCUBINSize)(void *, size_t *size) { return *size = 4, 0; }
CALL(nvrtcGetCUBIN)(void *, char *binary) { return std::memcpy(binary, "fake", 4), 0; }
CALL(nvrtcGetProgramLogSize)(void *, size_t *size) { return *size = 1, 0; }
CALL(nvrtcGetProgramLog)(void *, char *log) { return *log = 0, 0; }
CALL(nvrtcDestroyProgram)(void **) { return 0; }
