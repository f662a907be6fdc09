// The engine's threads: a few that sleep between batches, and a barrier for those that share a tile.
//
// OpenMP is not used: its threads spin, and beside a busy event loop on the same cores each parallel region then waits
// for a scheduler slice (a 0.7 ms product took 16 ms).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace sorl {

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#endif
}

// Looks for `done()` for some tens of microseconds, which is longer than the threads of an undisturbed team differ.
// Whoever waits longer than that waits for a thread that lost its core, and must give up its own: with a loop of
// yields instead, three threads on two busy cores spent scheduler slices at every barrier.
template <class Done>
bool soon(const Done& done) {
    for (int spins = 0; spins < 2000; ++spins) {
        if (done()) return true;
        pause();
    }
    return false;
}

// All `size` threads of a team meet here.
class Barrier {
   public:
    explicit Barrier(int size) : size_(size) {}

    void wait() {
        if (size_ == 1) return;
        const uint32_t phase = phase_.load(std::memory_order_acquire);
        const auto over = [&] { return phase_.load(std::memory_order_acquire) != phase; };
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
            arrived_.store(0, std::memory_order_relaxed);
            {
                const std::lock_guard<std::mutex> lock(mutex_);
                phase_.store(phase + 1, std::memory_order_release);
            }
            over_.notify_all();
        } else if (!soon(over)) {
            std::unique_lock<std::mutex> lock(mutex_);
            over_.wait(lock, over);
        }
    }

   private:
    const int size_;
    std::atomic<int> arrived_{0};
    std::atomic<uint32_t> phase_{0};
    std::mutex mutex_;
    std::condition_variable over_;
};

// Runs a function once on each of `size` threads; the caller is thread 0.
class Pool {
   public:
    using Function = void (*)(void* context, int rank);

    explicit Pool(int size) : size_(size) {
        for (int rank = 1; rank < size; ++rank) threads_.emplace_back([this, rank] { serve(rank); });
    }

    ~Pool() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            closing_ = true;
        }
        wake_.notify_all();
        for (std::thread& thread : threads_) thread.join();
    }

    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int size() const { return size_; }

    // `function(context, rank)` for rank 0 .. team - 1, team <= size.
    void run(int team, Function function, void* context) {
        if (team > 1) {
            {
                const std::lock_guard<std::mutex> lock(mutex_);
                function_ = function;
                context_ = context;
                team_ = team;
                unfinished_.store(team - 1, std::memory_order_relaxed);
                job_.fetch_add(1, std::memory_order_release);
            }
            wake_.notify_all();
        }
        function(context, 0);
        const auto finished = [&] { return unfinished_.load(std::memory_order_acquire) == 0; };
        if (team > 1 && !soon(finished)) {
            std::unique_lock<std::mutex> lock(mutex_);
            finished_.wait(lock, finished);
        }
    }

   private:
    void serve(int rank) {
        uint32_t seen = 0;
        for (;;) {
            // A batch often follows within microseconds of the last: waking a sleeper costs more than this look.
            soon([&] { return job_.load(std::memory_order_acquire) != seen; });
            Function function;
            void* context;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return closing_ || job_.load(std::memory_order_relaxed) != seen; });
                if (closing_) return;
                seen = job_.load(std::memory_order_relaxed);
                if (rank >= team_) continue;
                function = function_;
                context = context_;
            }
            function(context, rank);
            if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
                { const std::lock_guard<std::mutex> lock(mutex_); }  // not between the caller's look and its sleep
                finished_.notify_one();
            }
        }
    }

    const int size_;
    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable wake_, finished_;
    bool closing_ = false;
    Function function_ = nullptr;
    void* context_ = nullptr;
    int team_ = 0;
    std::atomic<uint32_t> job_{0};
    std::atomic<int> unfinished_{0};
};

}  // namespace sorl
