// Memory of a thread that kernels take between two instructions: grown once, never given back while the thread lives.
#pragma once

#include <cstdlib>
#include <new>

namespace weft {

class Scratch {
public:
    ~Scratch() { std::free(memory_); }

    // At least `count` elements, aligned to a cache line; what was in them is gone.
    template <class T> T* take(size_t count) {
        size_t bytes = (count * sizeof(T) + 4095) / 4096 * 4096;
        if (bytes > bytes_) {
            std::free(memory_);
            bytes_ = 0;
            memory_ = std::aligned_alloc(4096, bytes);
            if (!memory_) throw std::bad_alloc();
            bytes_ = bytes;
        }
        return static_cast<T*>(memory_);
    }

private:
    void* memory_ = nullptr;
    size_t bytes_ = 0;
};

// `Use` names what the memory is for: one buffer per use and thread.
template <int Use> inline Scratch& scratch() {
    static thread_local Scratch memory;
    return memory;
}

}  // namespace weft
