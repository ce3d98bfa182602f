// Builds kernels.cu for the processor: a block is a call, its threads are loops (see EACH_THREAD there), and one function starts any
// kernel from a list of pointers to its arguments, as the driver does.

#include <cmath>
#include <cstring>
#include <utility>

#define EMULATED
#define KERNEL(name) static void name
#define DEVICE static inline
#define SHARED
#define EACH_THREAD(t) for (int t = 0; t < THREADS; ++t)
#define SYNC()

struct Index {
    unsigned x, y;
};
static thread_local Index blockIdx;

#include "kernels.cu"

// Each argument is copied, as the driver does: its address says nothing about its alignment.
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
    for (unsigned y = 0; y < rows; ++y) {
        for (unsigned x = 0; x < columns; ++x) {
            blockIdx = {x, y};
            call(kernel, arguments, std::index_sequence_for<Types...>{});
        }
    }
    return sizeof...(Types);
}

// How many arguments the kernel has, or -1 where there is none of this name.
extern "C" int emulate(const char *name, unsigned columns, unsigned rows, const void *const *arguments) {
#define K(kernel) if (!std::strcmp(name, #kernel)) return run(kernel, columns, rows, arguments);
#include "kernels.def"
    return -1;
}
