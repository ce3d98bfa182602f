// Builds kernels.cu for the processor. A block is a function call, and its threads are loops (EACH_THREAD). One
// function starts any kernel from a list of pointers to its arguments, as the driver does.

#include <cmath>
#include <cstring>
#include <utility>

#define EMULATED
#define KERNEL(name) static void name
#define DEVICE static inline
#define SHARED
#define EACH_THREAD(t) \
    for (int t = backwards ? THREADS - 1 : 0; backwards ? t >= 0 : t < THREADS; t += backwards ? -1 : 1)
#define SYNC()

struct Index {
    unsigned x, y;
};
static thread_local Index blockIdx;

// Whether threads and blocks run in reverse order. A kernel whose results depend on it has a race.
static thread_local bool backwards;

#include "kernels.cu"

// Copies each argument, as the driver does, because its address may not be aligned.
template <class T> static T argument(const void *at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

template <class... Types, std::size_t... I>
static void call(void (*kernel)(Types...), const void *const *arguments, std::index_sequence<I...>) {
    kernel(argument<Types>(arguments[I])...);
}

template <class... Types>
static int run(void (*kernel)(Types...), unsigned columns, unsigned rows, const void *const *arguments) {
    const unsigned long blocks = (unsigned long)rows * columns;
    for (unsigned long n = 0; n < blocks; ++n) {
        const unsigned long block = backwards ? blocks - 1 - n : n;
        blockIdx = {(unsigned)(block % columns), (unsigned)(block / columns)};
        call(kernel, arguments, std::index_sequence_for<Types...>{});
    }
    return sizeof...(Types);
}

// Runs a kernel. Returns its number of arguments, or -1 if no kernel has this name.
extern "C" int emulate(const char *name, int reverse, unsigned columns, unsigned rows, const void *const *arguments) {
    backwards = reverse;
#define K(kernel) if (!std::strcmp(name, #kernel)) return run(kernel, columns, rows, arguments);
#include "kernels.def"
    return -1;
}
