// Work shared out over the threads of XLA's CPU backend.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>

#include "xla/ffi/api/ffi.h"

namespace jaxocr {

// Leaves a core's units to the thread that shares it, for some cycles.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Calls work(i) for i in [0, count), in any order, from several threads.
//
// The caller works too, so that all is done even where every other thread is
// busy, and leaves when nothing is under way. What is computed must not depend
// on which thread does it.
template <typename F>
void parallel(xla::ffi::ThreadPool& pool, int64_t count, F work) {
  struct Shared {
    F work;
    int64_t count;
    std::atomic<int64_t> next{0}, done{0};
    Shared(F work, int64_t count) : work(std::move(work)), count(count) {}
    void run() noexcept {
      for (int64_t i; (i = next.fetch_add(1)) < count; done.fetch_add(1)) {
        work(i);
      }
    }
  };
  auto shared = std::make_shared<Shared>(std::move(work), count);
  int64_t helpers = std::min<int64_t>(pool.num_threads(), count) - 1;
  for (int64_t i = 0; i < helpers; ++i) {
    pool.Schedule([shared] { shared->run(); });
  }
  shared->run();
  for (int spins = 1; shared->done.load() < count; ++spins) {
    relax();
    if (spins % 64 == 0) std::this_thread::yield();
  }
}

}  // namespace jaxocr
