// Threads that sleep between calls: a pool whose caller waits for all of it, and helpers whose caller waits for none.
//
// OpenMP is not used: its threads spin, and beside a busy event loop on the same cores each parallel region then waits
// for a scheduler slice (a 0.7 ms product took 16 ms).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

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
// Whoever waits longer than that waits for a thread that lost its core, and must give up its own.
template <class Done>
bool soon(const Done& done) {
    for (int spins = 0; spins < 2000; ++spins) {
        if (done()) return true;
        pause();
    }
    return false;
}

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

// Threads that lend idle cores to a job. Whoever invites them computes the job himself, waits for nobody, and leaves what
// they have not begun and takes over what they do not finish; the job, which they share, outlives his interest in it.
//
// On Linux their policy is SCHED_IDLE: an event loop that wakes takes a helper's core at once, where it would have to wait
// up to 3 ms for that of an ordinary thread.
class Helpers {
   public:
    class Job {
       public:
        virtual ~Job() = default;
        virtual void help(int rank) = 0;  // on a helper's thread, 1 <= rank <= count
    };

    explicit Helpers(int count) {
#if defined(__linux__)
        sched_getaffinity(0, sizeof allowed_, &allowed_);
#endif
        for (int rank = 1; rank <= count; ++rank) threads_.emplace_back([this, rank] { serve(rank); });
    }

    ~Helpers() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            closing_ = true;
        }
        wake_.notify_all();
        for (std::thread& thread : threads_) thread.join();
    }

    Helpers(const Helpers&) = delete;
    Helpers& operator=(const Helpers&) = delete;

    int count() const { return static_cast<int>(threads_.size()); }

    // Until the next invitation; returns at once.
    void invite(std::shared_ptr<Job> job) {
        keep_apart();
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            job_.swap(job);
            invitation_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
    }

   private:
    // Not on the caller's core: virtual machines have been seen to wake a sleeper there, beside idle cores, until the
    // balancer comes by milliseconds later. After 10 ms of rest (8, 8) of 4 x 512 took 3.2 ms with two threads, 0.6 with one.
    void keep_apart() {
#if defined(__linux__)
        const int here = sched_getcpu();
        if (here < 0 || here == avoided_) return;
        cpu_set_t others = allowed_;
        CPU_CLR(here, &others);
        if (CPU_COUNT(&others) == 0) return;
        for (std::thread& thread : threads_) pthread_setaffinity_np(thread.native_handle(), sizeof others, &others);
        avoided_ = here;
#endif
    }

    void serve(int rank) {
#if defined(__linux__)
        const sched_param none{};
        sched_setscheduler(0, SCHED_IDLE, &none);
#endif
        uint32_t seen = 0;
        for (;;) {
            soon([&] { return invitation_.load(std::memory_order_acquire) != seen; });
            std::shared_ptr<Job> job;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return closing_ || invitation_.load(std::memory_order_relaxed) != seen; });
                if (closing_) return;
                seen = invitation_.load(std::memory_order_relaxed);
                job = job_;
            }
            job->help(rank);
        }
    }

    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable wake_;
    bool closing_ = false;
    std::shared_ptr<Job> job_;
    std::atomic<uint32_t> invitation_{0};
#if defined(__linux__)
    cpu_set_t allowed_;
    int avoided_ = -1;
#endif
};

}  // namespace sorl
